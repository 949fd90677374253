// A clip that is dropped, chosen or recorded is played from the visitor's own machine, and sent to be looked at once.
const drop = element.querySelector(".drop");
const video = element.querySelector("video");
const choose = element.querySelector(".choose");
const record = element.querySelector(".record");
const { bytes, seconds } = LIMITS;
let recorder = null;

const tell = (text) => { element.querySelector(".told").textContent = text; };

function play(source) {
  if (video.src) URL.revokeObjectURL(video.src);
  const isLive = source instanceof MediaStream;
  video.srcObject = isLive ? source : null;
  if (isLive) video.removeAttribute("src"); else video.src = URL.createObjectURL(source);
  Object.assign(video, { hidden: false, controls: !isLive, autoplay: true, loop: !isLive });
}

function send(clip) {
  if (!clip) return;
  if (clip.size > bytes) {
    tell(`The clip has ${Math.ceil(clip.size / 1e6)} MB, and ${bytes / 1e6} MB are taken. Cut it or scale it down.`);
    return;
  }
  play(clip);
  const request = new XMLHttpRequest();
  request.upload.onprogress = ({ loaded, total }) => tell(`sending: ${Math.floor((100 * loaded) / total)} %`);
  request.onerror = () => tell("The clip could not be sent. Is the server still running?");
  request.onload = () => {
    tell(request.status === 200 ? "" : request.responseText);
    if (request.status === 200) trigger("upload", { name: request.responseText });
  };
  request.open("POST", "clips");
  request.send(clip);
}

async function startRecording() {
  if (!navigator.mediaDevices) {
    tell("Browsers open the camera only for pages of this machine (http://localhost) or over https.");
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (problem) {
    tell(`The camera cannot be used: ${problem.message}.`);
    return;
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    record.textContent = "Record";
    recorder = null;
    send(new Blob(parts, { type: parts[0].type }));
  };
  play(stream);
  recorder.start();
  record.textContent = "Stop";
  tell(`recording, ${seconds} seconds at most`);
  const started = recorder;
  setTimeout(() => { if (started.state === "recording") started.stop(); }, 950 * seconds); // the last frames take their time
}

record.addEventListener("click", () => { if (recorder) recorder.stop(); else startRecording(); });
choose.addEventListener("change", () => { send(choose.files[0]); choose.value = ""; });
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  send(event.dataTransfer.files[0]);
});
video.addEventListener("error", () => { if (video.src) video.hidden = true; }); // a format that browsers do not play
