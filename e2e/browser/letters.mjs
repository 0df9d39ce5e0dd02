// Deciding about dead letters, each of which is asked about once more.

import { axe, test } from './page.mjs';

await test(async ({ open, parameters }) => {
    const { base, requeue, discard } = parameters;
    const page = await open(`${base}/`);
    const violations = [];
    await page.locator('.tiles a', { hasText: 'dead letters' }).click();
    const row = (position) => page.getByRole('row').filter({ has: page.getByRole('link', { name: position, exact: true }) });
    const before = await page.locator('tbody tr').allInnerTexts();
    violations.push(...(await axe(page)));

    await row(requeue).getByRole('link', { name: requeue }).click();
    const payload = await page.locator('.facts dt:text-is("Payload") + dd').innerText();
    violations.push(...(await axe(page)));
    await page.getByRole('link', { name: 'Requeue…' }).click();
    violations.push(...(await axe(page)));
    // Nothing has happened yet, and nothing does.
    await page.getByRole('link', { name: 'Cancel' }).click();
    await page.getByRole('link', { name: 'Requeue…' }).click();
    await page.getByRole('button', { name: 'Requeue' }).click();
    const requeued = await page.getByRole('status').filter({ hasText: requeue }).innerText();
    await row(requeue).waitFor({ state: 'detached' });

    await row(discard).getByRole('link', { name: discard }).click();
    await page.getByRole('link', { name: 'Discard…' }).click();
    await page.getByRole('button', { name: 'Discard' }).click();
    const discarded = await page.getByRole('status').filter({ hasText: discard }).innerText();
    const after = await row(discard).innerText();
    return { before, payload, requeued, discarded, after, violations };
});
