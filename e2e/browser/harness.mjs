// What e2e/tests/it/browser.rs looks at the harness with: opens a page, presses its buttons, waits for the troubles that are
// expected, and judges it.

import { axe, test } from './page.mjs';

await test(async ({ open, expectTrouble, parameters }) => {
    const page = await open(parameters.url);
    for (const button of await page.getByRole('button').all()) {
        await button.click();
    }
    for (const pattern of parameters.expected ?? []) {
        await expectTrouble(new RegExp(pattern), parameters.patience_ms);
    }
    return { title: await page.title(), violations: await axe(page) };
});
