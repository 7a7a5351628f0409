"use strict";
// Tables sort by the numbers that cells carry; what has none stays last. A second press turns the order round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table"), place = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const value = (row) => row.cells[place].dataset.value;
    const numbers = rows.every((row) => value(row) === undefined || value(row).trim() !== "" && !isNaN(value(row)));
    rows.sort((one, other) => {
      const a = value(one), b = value(other);
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      const order = numbers ? a - b : a.localeCompare(b, "en", { numeric: true });
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  });
}
// The SVG file beside each picture is drawn into a canvas at three times its size.
for (const button of document.querySelectorAll("button.png")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas"), link = document.createElement("a");
      canvas.width = 3 * image.width;
      canvas.height = 3 * image.height;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      link.download = button.dataset.file;
      link.href = canvas.toDataURL("image/png");
      link.click();
    };
    image.src = button.parentElement.querySelector("a").href;
  });
}
