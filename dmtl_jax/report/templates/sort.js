// Gives every column of a sortable table a button that sorts the rows: by data-value where a cell has one, else by text.
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  if (body.rows.length === 1) continue;
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    return cell.dataset.value ? Number(cell.dataset.value) : text === '–' ? null : text;
  };
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute('aria-sort', 'none');
    button.addEventListener('click', () => {
      const rows = [...body.rows].map(row => ({row, value: value(row, column)}));
      const first = rows.some(item => typeof item.value === 'number') ? 'descending' : 'ascending';
      const other = first === 'descending' ? 'ascending' : 'descending';
      const order = head.getAttribute('aria-sort') === first ? other : first;
      for (const each of heads) each.setAttribute('aria-sort', 'none');
      head.setAttribute('aria-sort', order);
      const sign = order === 'ascending' ? 1 : -1;
      rows.sort((a, b) => {
        if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
        return sign * (typeof a.value === 'number' ? a.value - b.value : String(a.value).localeCompare(String(b.value)));
      });
      body.append(...rows.map(item => item.row));
    });
  });
}
