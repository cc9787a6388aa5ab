"use strict";
// Filters: a row is shown if it has every word that is typed and belongs to a group whose button is pressed, if any is.
for (const tools of document.querySelectorAll(".tools")) {
  const rows = [...document.querySelectorAll(`#${tools.dataset.rows} li`)];
  const cards = [...document.querySelectorAll(`#${tools.dataset.rows} .card`)];
  const count = tools.querySelector("output");
  const apply = () => {
    const words = tools.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const groups = [...tools.querySelectorAll("button[aria-pressed=true]")].map((button) => button.dataset.group);
    let shown = 0;
    for (const row of rows) {
      const text = row.dataset.text;
      const own = row.dataset.groups.split("|");
      row.hidden = !words.every((word) => text.includes(word)) || (groups.length > 0 && !groups.some((g) => own.includes(g)));
      shown += !row.hidden;
    }
    for (const card of cards) card.hidden = ![...card.querySelectorAll("li")].some((row) => !row.hidden);
    count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
  };
  tools.querySelector("input").addEventListener("input", apply);
  for (const button of tools.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      apply();
    });
  }
}
