// The report without this script is the same text: it sorts, filters, shows tips and copies commands, nothing else.
(() => {
  'use strict';
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, values) => Object.assign(document.createElement(tag), values);

  // The table of artifacts: sorted by a click on a heading, filtered by name, format and precision.
  const table = document.getElementById('table');
  const form = document.querySelector('.controls');
  const body = table.tBodies[0];
  const rows = [...body.rows]; // in the order of the build
  const heads = all('thead th', table);
  const value = (row, column) => (column ? parseFloat(row.cells[column]?.dataset.sort) : row.dataset.name);

  function sort(column, direction) {
    const sign = direction === 'descending' ? -1 : 1;
    const sorted = direction ? [...rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (column && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y); // not measured: last either way
      return sign * (x < y ? -1 : x > y ? 1 : 0);
    }) : rows;
    body.append(...sorted);
    heads.forEach((head, i) => (direction && i === column ? head.setAttribute('aria-sort', direction) : head.removeAttribute('aria-sort')));
    form.elements.sort.value = direction ? String(column) : '';
  }

  heads.forEach((head, column) => {
    const first = head.dataset.first ?? 'ascending';
    const second = first === 'ascending' ? 'descending' : 'ascending';
    const button = make('button', { type: 'button', textContent: head.textContent });
    if (head.dataset.tip) button.dataset.tip = head.dataset.tip;
    delete head.dataset.tip;
    head.replaceChildren(button);
    button.addEventListener('click', () => {
      const now = head.getAttribute('aria-sort');
      sort(column, now === first ? second : now === second ? null : first); // the third click: as built
    });
  });

  function filter() {
    const { name, format, precision } = form.elements;
    const wanted = name.value.trim().toLowerCase();
    const kept = rows.filter((row) => {
      const { dataset } = row;
      row.hidden = !dataset.name.toLowerCase().includes(wanted)
        || (format.value && dataset.format !== format.value) || (precision.value && dataset.precision !== precision.value);
      return !row.hidden;
    });
    const names = new Set(kept.map((row) => row.dataset.name));
    all('.chart [aria-roledescription=point]').forEach((mark) =>
      mark.classList.toggle('out', !names.has(mark.getAttribute('aria-label').split(': ')[0])));
    form.querySelector('output').textContent = `${kept.length} of ${rows.length}`;
  }

  form.elements.sort.addEventListener('change', ({ target }) =>
    sort(Number(target.value), target.value ? heads[target.value].dataset.first : null));
  form.addEventListener('input', filter);
  form.addEventListener('submit', (event) => event.preventDefault());
  form.reset(); // a browser may keep what was typed before a reload
  form.hidden = false;
  filter();

  // Tips: what a heading means, what a mark of a chart is. By pointer or focus; Escape closes.
  const tip = document.getElementById('tip');
  const owner = (target) => target.closest?.('[data-tip], .chart [aria-roledescription=point], .chart [aria-roledescription=circle], .chart [aria-roledescription=tick]');
  let shown = null;

  function show(mark) {
    if (mark === shown) return;
    shown?.removeAttribute('aria-describedby');
    shown = mark;
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip ?? mark.getAttribute('aria-label');
    if (mark.dataset.tip) mark.setAttribute('aria-describedby', 'tip');
    const at = mark.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(8, Math.min(innerWidth - width - 8, at.left + at.width / 2 - width / 2))}px`;
    tip.style.top = `${at.top - height - 8 < 0 ? at.bottom + 8 : at.top - height - 8}px`;
  }

  all('.chart [aria-roledescription=point]').forEach((mark) => mark.setAttribute('tabindex', '0'));
  document.addEventListener('pointerover', ({ target }) => show(owner(target)));
  document.addEventListener('focusin', ({ target }) => show(owner(target)));
  document.addEventListener('focusout', () => show(null));
  document.addEventListener('keydown', ({ key }) => key === 'Escape' && show(null));
  document.addEventListener('scroll', () => show(null), { capture: true, passive: true });

  // Commands: a button copies each.
  async function copied(code) {
    try {
      await navigator.clipboard.writeText(code.textContent);
      return true;
    } catch { // no clipboard in a page opened from disk, in some browsers
      getSelection().selectAllChildren(code);
      return document.execCommand('copy');
    }
  }

  all('pre').forEach((pre) => {
    const code = pre.querySelector('code');
    const button = make('button', { type: 'button', className: 'copy', textContent: 'Copy' });
    button.setAttribute('aria-label', `Copy: ${code.textContent}`);
    const said = make('span', { className: 'unseen' });
    said.setAttribute('role', 'status');
    pre.after(button, said);
    button.addEventListener('click', async () => {
      const done = await copied(code);
      button.textContent = said.textContent = done ? 'Copied' : 'Press Ctrl+C';
      setTimeout(() => { button.textContent = 'Copy'; said.textContent = ''; }, 2000);
    });
  });

  // A link opens the details that it leads to; paper has no folds.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.matches?.('details')) target.open = true;
  };
  addEventListener('hashchange', open);
  open();
  let folded = [];
  addEventListener('beforeprint', () => {
    folded = all('details:not([open])');
    folded.forEach((details) => { details.open = true; });
  });
  addEventListener('afterprint', () => folded.forEach((details) => { details.open = false; }));
})();
