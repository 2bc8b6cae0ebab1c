// Runs the tests of HTTP caches (http-cache-tests) against a cache: `node cache_suite.mjs FOLDER URL`. For each test, a line
// with its kind, its name, and `passed` or what was wrong.

import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [folder, base] = process.argv.slice(2)
const { default: fetch } = await import(pathToFileURL(createRequire(`${folder}/`).resolve('node-fetch')).href)
const { runTests, getResults } = await import(`${folder}/package/client/runner.mjs`)
const { default: suites } = await import(`${folder}/package/tests/index.mjs`)

await runTests(suites, fetch, false, base)
const results = getResults()
for (const test of suites.flatMap(suite => suite.tests).filter(test => !test.browser_only)) {
  const result = results[test.id]
  console.log(test.kind ?? 'required', test.id, result === true ? 'passed' : JSON.stringify(result))
}
