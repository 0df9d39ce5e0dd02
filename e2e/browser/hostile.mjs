// What senders write is text wherever it is shown: on wide and narrow screens, light and dark, with JavaScript and without.

import { axe, test } from './page.mjs';

await test(async ({ open, parameters }) => {
    const { base, paths } = parameters;
    const seen = {};
    const ways = {
        light: {},
        dark: { colorScheme: 'dark' },
        phone: { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true },
        still: { javaScriptEnabled: false },
    };
    for (const way of parameters.ways) {
        const options = ways[way];
        const page = await open(`${base}/`, options);
        let dialogs = 0;
        page.on('dialog', (dialog) => { dialogs += 1; dialog.dismiss(); });
        seen[way] = { overflow: [], texts: [], violations: [], foreign: 0 };
        for (const path of paths) {
            await page.goto(base + path);
            seen[way].texts.push(await page.locator('main').innerText());
            seen[way].foreign += await page.locator('main :is(script, img, iframe, style, object)').count();
            if (options.javaScriptEnabled === false) continue;
            seen[way].violations.push(...(await axe(page)));
            const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
            if (wider > 0) seen[way].overflow.push(path);
        }
        seen[way].dialogs = dialogs;
        await page.context().close();
    }
    return seen;
});
