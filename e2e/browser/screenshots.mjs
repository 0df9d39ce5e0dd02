// Takes the README's pictures of the console.

import { test } from './page.mjs';

await test(async ({ open, parameters }) => {
    const { base, folder, failed, run } = parameters;
    const pictures = [
        ['console-overview.png', '/', { viewport: { width: 1200, height: 760 } }],
        ['console-jobs-dark.png', '/jobs', { viewport: { width: 1200, height: 700 }, colorScheme: 'dark' }],
        ['console-job.png', `/job?id=${failed}`, { viewport: { width: 1200, height: 860 } }],
        ['console-phone.png', `/job?id=${run}`, { viewport: { width: 390, height: 760 } }],
    ];
    for (const [name, path, options] of pictures) {
        const page = await open(base + path, options);
        await page.getByRole('status').filter({ hasText: 'Live' }).waitFor();
        await page.screenshot({ path: `${folder}/${name}` });
        await page.context().close();
    }
    return pictures.length;
});
