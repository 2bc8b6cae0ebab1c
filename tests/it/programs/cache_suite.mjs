// Runs the tests of HTTP caches (http-tests/cache-tests) against a cache: `node cache_suite.mjs FOLDER URL`. For each test,
// a line with its kind, its name, and `passed` or what was wrong.

import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [folder, base] = process.argv.slice(2)
// The package in npm is older, and brings no client.
const isPackage = existsSync(`${folder}/node_modules/node-fetch`)
const inside = isPackage ? `${folder}/package` : `${folder}/test-engine`
const { runTests, getResults } = await import(`${inside}/client/runner.mjs`)
const { default: suites } = await import(`${isPackage ? inside : folder}/tests/index.mjs`)

if (isPackage) {
  const { default: fetch } = await import(pathToFileURL(createRequire(`${folder}/`).resolve('node-fetch')).href)
  await runTests(suites, fetch, false, base)
} else {
  await runTests(suites, false, base)
}
const results = getResults()
for (const test of suites.flatMap(suite => suite.tests).filter(test => !test.browser_only)) {
  const result = results[test.id]
  console.log(test.kind ?? 'required', test.id, result === true ? 'passed' : JSON.stringify(result))
}
