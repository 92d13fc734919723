// Opens a report in headless Chromium, as a file, and prints what was seen as JSON:
//   node check.mjs report.html [FOLDER for screenshots]
// Chromium is looked for at $CHROMIUM, then at /usr/bin/chromium.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const [file, folder] = process.argv.slice(2);
const address = pathToFileURL(resolve(file)).href;
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const LONG = 300_000; // ms; a busy machine takes minutes where a quiet one takes seconds
const SIZES = [[390, 844], [768, 1024], [1280, 900]];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox'], timeout: LONG });
const seen = { errors: [], requests: [], violations: [], layouts: [] };

async function opened(values) {
  const context = await browser.newContext({ permissions: [], ...values });
  const page = await context.newPage();
  page.setDefaultTimeout(LONG);
  page.on('console', (message) => message.type() === 'error' && seen.errors.push(message.text()));
  page.on('pageerror', (error) => seen.errors.push(error.message));
  page.on('request', (request) => request.url() !== address && !request.url().startsWith('data:') && seen.requests.push(request.url()));
  await page.goto(address);
  return page;
}

// Text of the scatter: no two labels overlap as they are drawn, none is on a point.
const overlaps = () => {
  const chart = document.querySelector('#drift-against-latency svg');
  const boxes = [...chart.querySelectorAll('text')].filter((text) => text.textContent.includes('/')).map((text) => [text.textContent, text.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return { labels: boxes.length, pairs: boxes.flatMap(([name, box], i) => boxes.slice(i + 1).filter(([, other]) => meet(box, other)).map(([other]) => `${name} and ${other}`)) };
};

for (const colorScheme of ['light', 'dark']) {
  for (const [width, height] of SIZES) {
    const page = await opened({ colorScheme, viewport: { width, height } });
    seen.layouts.push(await page.evaluate(() => ({
      width: innerWidth,
      overflow: document.documentElement.scrollWidth - innerWidth,
      beforeDetails: document.getElementById('details').getBoundingClientRect().top + scrollY,
      rows: [...document.querySelectorAll('#table tbody tr')].map((row) => Math.round(row.getBoundingClientRect().right)),
    })));
    if (folder) await page.screenshot({ path: join(folder, `${colorScheme}-${width}.png`), fullPage: true });
    await page.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    seen.violations.push(...violations.map(({ id, impact, nodes }) => ({ id, impact, colorScheme, width, html: nodes[0].html })));
    await page.context().close();
  }
}

const page = await opened({ viewport: { width: 1280, height: 900 } });
const names = () => page.evaluate(() => [...document.querySelectorAll('#table tbody tr:not([hidden])')].map((row) => row.dataset.name));
seen.overlaps = await page.evaluate(overlaps);
seen.built = await names();
const heading = page.locator('#table th button', { hasText: 'p50' });
await heading.focus(); // by keyboard alone
seen.tip = await page.locator('#tip').textContent();
seen.sorts = [];
for (let press = 0; press < 3; press += 1) {
  await page.keyboard.press('Enter');
  seen.sorts.push([await page.locator('#table th[aria-sort]').getAttribute('aria-sort', { timeout: 1000 }).catch(() => null), await names()]);
}
await page.selectOption('.controls [name=format]', 'openvino');
await page.fill('.controls [name=name]', 'W8A8');
seen.filtered = await names();
seen.told = await page.locator('.controls output').textContent();
const point = page.locator('.chart [aria-roledescription=point]').first();
await point.focus();
seen.point = await page.locator('#tip').textContent();
await page.keyboard.press('Escape');
seen.closed = await page.locator('#tip').isHidden();
await page.locator('.copy').first().click();
await page.waitForFunction(() => document.querySelector('.copy').textContent !== 'Copy');
seen.copied = await page.locator('.copy').first().textContent();
await page.context().close();

const still = await opened({ javaScriptEnabled: false, viewport: { width: 1280, height: 900 } });
seen.withoutScript = { controls: await still.locator('.controls').isVisible(), rows: await still.locator('#table tbody tr').count(), summaries: await still.locator('summary').count() };
await still.locator('summary').last().click();
seen.withoutScript.opened = await still.locator('details[open]').count();

await browser.close();
console.log(JSON.stringify(seen));
