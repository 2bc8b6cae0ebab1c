-- Sets a key if it has the value that is expected.
-- KEYS: the key. ARGV: the expected value (empty: there is none), the new one, milliseconds until it expires.
-- Answers 1 if it was set, else 0.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
