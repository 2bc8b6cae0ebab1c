-- Adds a member to a set whose members expire, or returns the members.
-- KEYS: the key. ARGV: the number of members that it keeps or returns; to add one, also the member, and milliseconds
-- until it expires. Answers 1 if it was added, or the members, those that expire last first.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not ARGV[2] then return redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', now, 'LIMIT', 0, ARGV[1]) end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 1)
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
