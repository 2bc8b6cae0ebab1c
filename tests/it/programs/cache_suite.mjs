// Runs the tests of HTTP caches (http-tests/cache-tests) against a cache: `node cache_suite.mjs FOLDER URL`. For each test,
// a line with its kind, its name, and `passed` or what was wrong.

const [folder, base] = process.argv.slice(2)
const { runTests, getResults } = await import(`${folder}/test-engine/client/runner.mjs`)
const { default: suites } = await import(`${folder}/tests/index.mjs`)

await runTests(suites, false, base)
const results = getResults()
for (const test of suites.flatMap(suite => suite.tests).filter(test => !test.browser_only)) {
  const result = results[test.id]
  console.log(test.kind ?? 'required', test.id, result === true ? 'passed' : JSON.stringify(result))
}
