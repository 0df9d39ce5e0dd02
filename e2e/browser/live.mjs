// A job's page follows a workflow that runs, without being loaded again.

import { writeFileSync } from 'node:fs';
import { axe, test } from './page.mjs';

await test(async ({ open, parameters }) => {
    const { base, id, go_on, ends } = parameters;
    const overview = await open(`${base}/`);
    const list = await open(`${base}/jobs?status=provisioning`);
    const page = await open(`${base}/job?id=${encodeURIComponent(id)}`);
    const opened = [overview, list, page];
    await Promise.all(opened.map((one) => one.getByRole('status').filter({ hasText: 'Live' }).waitFor()));
    // Gone if a page were loaded again.
    await Promise.all(opened.map((one) => one.evaluate(() => { window.isSame = true; })));

    const fact = (name) => page.locator(`.facts dt:text-is("${name}") + dd`);
    await fact('Status').filter({ hasText: /^provisioning$/ }).waitFor();
    await page.locator('.strip figcaption').filter({ hasText: /^[1-9]\d* heartbeats?,/ }).waitFor();
    await list.getByRole('link', { name: id }).waitFor();
    await overview.locator('.tiles li', { hasText: 'provisioning' }).filter({ hasText: '1' }).waitFor();
    await overview.locator('.quietest').getByRole('link', { name: id }).waitFor();

    writeFileSync(go_on, '');
    await fact('Status').filter({ hasText: new RegExp(`^${ends}$`) }).waitFor({ timeout: 60_000 });
    await list.getByText('No job is like that.').waitFor();
    await overview.locator('.tiles li', { hasText: ends }).filter({ hasText: '1' }).waitFor();
    const link = fact('Run').getByRole('link');
    const [sameness, violations] = [[], []];
    for (const one of opened) {
        sameness.push(await one.evaluate(() => window.isSame === true));
        violations.push(...(await axe(one)));
    }
    return {
        sameness,
        violations,
        run: { text: await link.innerText(), href: await link.getAttribute('href') },
        timeline: await page.locator('.timeline .what strong').allInnerTexts(),
        outcomes: await page.locator('.timeline .outcome').allInnerTexts(),
        error: ends === 'failed' ? await fact('Error').innerText() : null,
    };
});
