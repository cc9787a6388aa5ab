"use strict";
// Filters: a row is shown if it has every word that is typed, and of each kind of button one that is pressed, if any is.
for (const tools of document.querySelectorAll(".tools")) {
  const list = document.getElementById(tools.dataset.rows);
  const rows = [...list.querySelectorAll("li[data-text]")];
  const cards = [...list.querySelectorAll(".card")];
  const field = tools.querySelector("input");
  const count = tools.querySelector("output");
  const apply = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = {};
    for (const { dataset } of tools.querySelectorAll("button[data-group][aria-pressed=true]")) {
      (kinds[dataset.kind] ??= []).push(dataset.group);
    }
    let shown = 0;
    for (const row of rows) {
      const worded = words.every((word) => row.dataset.text.includes(word));
      row.hidden = !worded || !Object.entries(kinds).every(([kind, groups]) => groups.includes(row.dataset[kind]));
      shown += !row.hidden;
    }
    for (const card of cards) card.hidden = ![...card.querySelectorAll("li[data-text]")].some((row) => !row.hidden);
    count.textContent = shown === rows.length ? "" : shown ? `${shown} of ${rows.length}` : "nothing like that here";
  };
  field.addEventListener("input", apply);
  for (const button of tools.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(pressed));
      if ("notes" in button.dataset) list.classList.toggle("noted", pressed);
      else apply();
    });
  }
  apply(); // a browser may have kept what was typed before the page was loaded again
}
