"use strict";
// Sorting and finding. The table of classes is drawn from the text below it, some rows at a time; without this script
// the page shows the first rows and the whole text.
(() => {
  const FIRST = 25;
  const STEP = 200;
  const SPLITS = ["train", "val", "test"];
  const table = document.getElementById("class-table");
  const body = table.tBodies[0];
  const more = document.getElementById("class-more");
  const filter = document.getElementById("class-filter");
  const rows = document.getElementById("class-data").textContent.trimEnd().split("\n").slice(1).map((line) => {
    const cells = line.split("\t");
    return { cells, numbers: cells.map((cell) => parseFloat(cell)), text: line.toLocaleLowerCase() };
  });
  const most = Math.max(1, ...rows.slice(0, 1).map((row) => row.numbers[4]));
  let found = rows;
  let shown = FIRST;
  let key = 4;
  let ascending = false;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const drawn = (row) => {
    const line = element("tr");
    const head = element("th");
    const name = element("bdi", "", row.cells[0]);
    name.dir = "auto";
    head.append(name);
    for (const mark of row.cells[7] ? row.cells[7].split("; ") : []) head.append(" ", element("span", "mark", mark));
    const stack = element("span", "stack");
    SPLITS.forEach((split, place) => {
      const count = row.numbers[1 + place];
      if (!count) return;
      const part = element("i", split);
      part.style.width = `${(100 * count) / most}%`;
      stack.append(part);
    });
    head.append(stack);
    line.append(head);
    row.cells.slice(1, 7).forEach((cell, place) => {
      const shown = /^\d{4,}$/.test(cell) ? Number(cell).toLocaleString("en") : cell;
      line.append(element("td", place < 3 && cell === "0" ? "none" : "", shown));
    });
    return line;
  };

  const draw = () => {
    body.replaceChildren(...found.slice(0, shown).map(drawn));
    document.getElementById("class-count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    more.replaceChildren();
    if (found.length <= shown) return;
    const button = element("button", "", `show ${Math.min(STEP, found.length - shown)} more of ${(found.length - shown).toLocaleString("en")}`);
    button.type = "button";
    button.addEventListener("click", () => {
      shown += STEP;
      draw();
    });
    more.append(button);
  };

  const order = () => {
    const value = (row) => (Number.isNaN(row.numbers[key]) ? -1 : row.numbers[key]);
    const compare = key ? (a, b) => value(a) - value(b) : (a, b) => a.cells[0].localeCompare(b.cells[0]);
    rows.sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
    for (const head of table.tHead.rows[0].cells) {
      head.setAttribute("aria-sort", Number(head.dataset.key) !== key ? "none" : ascending ? "ascending" : "descending");
    }
  };

  const find = () => {
    const wanted = filter.value.trim().toLocaleLowerCase();
    found = wanted ? rows.filter((row) => row.text.includes(wanted)) : rows;
    draw();
  };

  for (const head of table.tHead.rows[0].cells) {
    const button = element("button", "", head.textContent);
    button.type = "button";
    button.addEventListener("click", () => {
      const next = Number(head.dataset.key);
      ascending = next === key ? !ascending : next === 0;
      key = next;
      order();
      find();
    });
    head.replaceChildren(button);
  }
  filter.addEventListener("input", () => {
    shown = FIRST;
    find();
  });
  order();
  find();

  const strips = [...document.querySelectorAll("article")].map((strip) => [strip, strip.textContent.toLocaleLowerCase()]);
  const words = document.getElementById("strip-filter");
  const boxes = [...document.querySelectorAll(".strip-split")];
  const choose = () => {
    const wanted = words.value.trim().toLocaleLowerCase();
    const splits = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let count = 0;
    for (const [strip, text] of strips) {
      strip.hidden = !splits.has(strip.dataset.split) || !text.includes(wanted);
      count += strip.hidden ? 0 : 1;
    }
    document.getElementById("strip-count").textContent = `${count} of ${strips.length}`;
  };
  words.addEventListener("input", choose);
  boxes.forEach((box) => box.addEventListener("change", choose));
  choose();

  document.querySelectorAll(".tools").forEach((tools) => (tools.hidden = false));
  window.addEventListener("beforeprint", () => document.querySelectorAll(".concerns details").forEach((one) => (one.open = true)));
})();
