// Filtering, searching and paging in a long list, by hand and without a mouse.

import { axe, test } from './page.mjs';

await test(async ({ open, parameters }) => {
    const { base } = parameters;
    const page = await open(`${base}/`);
    const ids = () => page.locator('table.jobs tbody th').allInnerTexts();

    // By keyboard alone, from the first link of the first page.
    await page.keyboard.press('Tab');
    const skip = await page.evaluate(() => document.activeElement.textContent);
    await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Jobs' }).focus();
    await page.keyboard.press('Enter');
    await page.waitForURL(`${base}/jobs`);

    const pages = [await ids()];
    for (let number = 1; number < 4; number += 1) {
        await page.getByRole('link', { name: 'Older' }).focus();
        await Promise.all([page.waitForURL(/after=/), page.keyboard.press('Enter')]);
        await page.waitForFunction((last) => document.querySelector('table.jobs tbody th').innerText !== last, pages.at(-1)[0]);
        pages.push(await ids());
    }
    await page.getByRole('link', { name: 'Newest' }).click();
    await page.waitForFunction((first) => document.querySelector('table.jobs tbody th').innerText === first, pages[0][0]);

    await page.getByLabel('Status').selectOption('failed');
    await page.getByLabel('Job or run').fill('BULK-0099');
    await page.getByLabel('Job or run').press('Enter');
    await page.waitForURL(/search=BULK-0099/);
    const filtered = { ids: await ids(), statuses: await page.locator('table.jobs tbody .status').allInnerTexts() };
    const kept = [await page.getByLabel('Status').inputValue(), await page.getByLabel('Job or run').inputValue()];
    await page.getByRole('link', { name: filtered.ids[0] }).click();
    const title = await page.locator('h1').innerText();
    await page.goBack();

    await page.getByLabel('First heard of').selectOption('1h');
    await page.getByRole('button', { name: 'Show' }).click();
    await page.getByText('No job is like that.').waitFor();
    return { skip, pages, filtered, kept, title, violations: await axe(page) };
});
