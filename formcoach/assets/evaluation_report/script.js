"use strict";
const PAGE = 25;
const WORDS = { right: "right", exercise: "right exercise only", wrong: "wrong", failed: "failed", unknown: "not measurable" };
const rows = JSON.parse(document.getElementById("rows").textContent);
const body = document.querySelector("#clips tbody"), more = document.getElementById("more");
const [find, exercise, outcome, order] = ["find", "exercise", "outcome", "order"].map(id => document.getElementById(id));
let chosen = rows, shown = 0;

for (const row of rows) {
  const said = row.answers.flatMap(answer => [answer.pieces.join(""), answer.error]);
  row.content = [row.id, row.video, row.truth, ...said].join("\n").toLowerCase();
  row.last = row.answers[row.answers.length - 1];
}

function element(name, content = [], properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...[content].flat());
  return made;
}

function isolated(text) {
  return element("bdi", text, { dir: "auto" });
}

function answerOf(answer) {
  const badge = element("span", WORDS[answer.outcome], { className: "outcome " + answer.outcome });
  const pieces = answer.pieces.map((piece, place) => place % 2 ? element("mark", piece) : piece);
  const said = answer.error ? [answer.error] : answer.pieces.join("").trim() ? pieces : ["(nothing)"];
  const scores = Object.entries(answer.scores).map(([name, value]) => name + " " + value.toFixed(2));
  const told = element("span", scores.join(", ") + ", " + answer.seconds.toFixed(1) + " s", { className: "faint" });
  return [element("dt", answer.model), element("dd", [isolated(said), " ", badge, " ", told])];
}

function rowOf(row) {
  const look = element("td", [], { className: "look" });
  if (row.image) {
    const [width, height] = row.size;
    look.append(element("img", [], { src: "data:image/jpeg;base64," + row.image, width, height, alt: "frames of " + row.video }));
  } else {
    look.append(element("span", "no frames", { className: "faint" }));
  }
  if (row.href) {
    const play = element("button", "play", { className: "play" });
    play.addEventListener("click", () => {
      const video = element("video", [], { src: row.href, controls: true, autoplay: true, muted: true, loop: true });
      video.addEventListener("error", () => video.replaceWith(element("span", "the clip is not there", { className: "faint" })));
      play.replaceWith(video);
    });
    look.append(play);
  }
  const truth = [element("dt", "truth"), element("dd", isolated(row.truth))];
  const list = element("dl", [...truth, ...row.answers.flatMap(answerOf)]);
  const name = element("b", isolated(row.video), { title: row.prompt });
  const change = ["better", "worse"].includes(row.change) ? element("span", " " + row.change, { className: row.change }) : "";
  return element("tr", [look, element("td", [name, change, list])]);
}

function grow() {
  body.append(...chosen.slice(shown, shown + PAGE).map(rowOf));
  shown = Math.min(shown + PAGE, chosen.length);
  more.hidden = shown >= chosen.length;
  document.getElementById("shown").textContent = chosen.length + " of " + rows.length + " clips";
}

function fits(row) {
  const kind = outcome.value, isChange = kind === "better" || kind === "worse";
  return row.content.includes(find.value.toLowerCase())
    && (!exercise.value || row.exercises.includes(exercise.value))
    && (!kind || (isChange ? row.change === kind : row.last.outcome === kind));
}

function choose() {
  chosen = rows.filter(fits);
  if (order.value === "low") chosen.sort((a, b) => a.last.scores["ROUGE-L"] - b.last.scores["ROUGE-L"]);
  if (order.value === "slow") chosen.sort((a, b) => b.last.seconds - a.last.seconds);
  body.replaceChildren();
  shown = 0;
  grow();
}

for (const control of [find, exercise, outcome, order]) control.addEventListener("input", choose);
more.addEventListener("click", grow);
new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting)) grow(); }, { rootMargin: "600px" }).observe(more);
choose();
