// What every test in a browser is made of. Such a test is a module in this folder that e2e/src/browser.rs runs:
//
//     import { axe, test } from './page.mjs';
//
//     await test(async ({ open, parameters }) => {
//         const page = await open(`${parameters.base_url}/`);
//         await page.getByRole('button', { name: 'Requeue' }).click();
//         return { violations: await axe(page) };
//     });
//
// What the function returns is the result. The test fails when it throws, and at its end also when any page had a trouble:
// an error or a warning on the console, an error that no script caught, a request that failed, or one to another origin.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const modules = createRequire(`${process.env.BROWSER_MODULES}/`);
const { chromium } = modules('playwright-core');

// For what a test waits for; below the limit that it has as a whole, so that it can say what did not come.
const PATIENCE_MS = 20_000;
// On every machine the same, and nothing on the page is half-way to where it will be.
const CONTEXT = { locale: 'en-GB', timezoneId: 'UTC', reducedMotion: 'reduce' };

/**
 * Runs a test, and prints its result as the last line. The function gets
 *
 * - `parameters`, as they were given to e2e/src/browser.rs;
 * - `open(url, options)`, which opens a page with cookies and storage of its own, and returns Playwright's Page. Other pages
 *   that come of it are watched too. The options are those of Playwright's browser.newContext;
 * - `expectTrouble(pattern, patience_ms)`, which waits for a trouble with that text, and lets every such one so far pass.
 */
export async function test(body) {
    const browser = await chromium.connectOverCDP(process.env.DEVTOOLS);
    const troubles = new Troubles();
    const open = async (url, options = {}) => {
        const context = await browser.newContext({ ...CONTEXT, ...options });
        context.setDefaultTimeout(PATIENCE_MS);
        troubles.watch(context, new URL(url).origin);
        const page = await context.newPage();
        await page.goto(url);
        return page;
    };
    const pages = () => browser.contexts().flatMap((context) => context.pages());
    let result;
    try {
        const parameters = JSON.parse(process.env.PARAMETERS);
        result = await body({ parameters, open, expectTrouble: troubles.expect.bind(troubles) });
        // An answer from each page comes after all that the page had said before.
        await Promise.all(pages().map((page) => page.evaluate(() => null)));
        troubles.mustBeNone();
    } catch (error) {
        console.error(troubles.toString());
        await Promise.allSettled(
            pages().map((page, number) => page.screenshot({ path: `page-${number}.png`, timeout: 5_000 })),
        );
        throw error;
    }
    await browser.close();
    console.log(JSON.stringify(result ?? null));
}

/** What is wrong with a page for those who can't see or use it like others: axe's serious and critical violations. */
export async function axe(page) {
    // Evaluated by the debugger, which the page's Content-Security-Policy does not bind: the page keeps it while it is judged.
    await page.evaluate(readFileSync(modules.resolve('axe-core/axe.min.js'), 'utf8'));
    // Without what it would like to load itself, which the page would seem to have asked for.
    const { violations } = await page.evaluate(() => window.axe.run(document, { preload: false }));
    return violations
        .filter(({ impact }) => impact === 'serious' || impact === 'critical')
        .map(({ id, impact, help, nodes }) => ({
            id,
            impact,
            help,
            nodes: nodes.map(({ html, failureSummary }) => ({ html, summary: failureSummary })),
        }));
}

/** What went wrong on pages, beside what a test looks at. */
class Troubles {
    #found = [];
    #added = () => {};

    watch(context, origin) {
        context.on('console', (message) => {
            const { url, lineNumber } = message.location();
            // A browser asks for that by itself, early or late, for a page that names no icon.
            const isIcon = url.endsWith('/favicon.ico');
            if (['error', 'warning', 'assert'].includes(message.type()) && !isIcon) {
                this.#add(`console ${message.type()}: ${message.text()} (${url}:${lineNumber + 1})`);
            }
        });
        context.on('weberror', (error) => this.#add(`error on the page: ${error.error().stack}`));
        context.on('request', (request) => this.#judge(request.url(), origin));
        context.on('requestfailed', (request) => {
            const reason = request.failure()?.errorText;
            // That is what becomes of a request whose page has gone, or which a script no longer wants.
            if (reason !== 'net::ERR_ABORTED') {
                this.#add(`failed request: ${request.method()} ${request.url()}: ${reason}`);
            }
        });
        context.on('page', (page) => {
            page.on('websocket', (socket) => this.#judge(socket.url(), origin));
        });
    }

    async expect(pattern, patience_ms = PATIENCE_MS) {
        const deadline = Date.now() + patience_ms;
        while (!this.#found.some((trouble) => pattern.test(trouble))) {
            const left = deadline - Date.now();
            if (left <= 0) {
                throw new Error(`there was no trouble like ${pattern}`);
            }
            await new Promise((resolve) => {
                this.#added = resolve;
                setTimeout(resolve, left).unref();
            });
        }
        this.#found = this.#found.filter((trouble) => !pattern.test(trouble));
    }

    mustBeNone() {
        if (this.#found.length > 0) {
            throw new Error('pages were in trouble');
        }
    }

    toString() {
        return this.#found.map((trouble) => `trouble: ${trouble}`).join('\n');
    }

    #judge(url, origin) {
        const { protocol, origin: target } = new URL(url.replace(/^ws/, 'http'));
        if (['http:', 'https:'].includes(protocol) && target !== origin) {
            this.#add(`request to another origin: ${url}`);
        }
    }

    #add(trouble) {
        this.#found.push(trouble);
        this.#added();
    }
}
