// Sorts a table by a click on, or Enter or Space in, a column heading. Without script the table reads as it stands.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (one, two) =>
    typeof one === "string" ? one.localeCompare(two, undefined, { numeric: true }) : one - two;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      const unknown = rows.filter(([value]) => value === null); // stay last in both directions
      const known = rows.filter(([value]) => value !== null).sort(([one], [two]) => sign * compare(one, two));
      body.append(...[...known, ...unknown].map(([, row]) => row));
    });
  });
}
