"use strict";
// Shows the answers that hold every word searched for and carry every key chosen, or all that changed; without it all are shown.
for (const browser of document.querySelectorAll(".browser")) {
  const filters = browser.querySelector(".filters");
  const search = filters.querySelector("input[type=search]");
  const only = filters.querySelector("input[type=checkbox]");
  const selects = [...filters.querySelectorAll("select")];
  const found = filters.querySelector(".found");
  const rows = [...browser.querySelectorAll(".answer")];
  const texts = new Map();

  const text = (row) => {
    if (!texts.has(row)) {
      const parts = [...row.querySelectorAll(".item, dd")].map((part) => part.textContent);
      texts.set(row, parts.join("\n").toLowerCase());
    }
    return texts.get(row);
  };

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    const chosen = selects.filter((select) => select.value !== "");
    let shown = 0;
    for (const row of rows) {
      const fits =
        (!only.checked || row.dataset.changed === "1") &&
        chosen.every((select) => row.dataset[select.dataset.filter] === select.value) &&
        words.every((word) => text(row).includes(word));
      row.hidden = !fits;
      shown += Number(fits);
    }
    found.textContent = `${shown} of ${rows.length} shown`;
  };

  search.addEventListener("input", show);
  only.addEventListener("change", show);
  for (const select of selects) {
    select.addEventListener("change", show);
  }
  filters.hidden = false;
  show();
}
