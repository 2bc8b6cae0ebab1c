-- Takes a token from one bucket (GCRA: the one value that is kept is the time at which the bucket is full again).
-- KEYS: the bucket. ARGV, in microseconds: time between two tokens, that times (burst - 1), how early one may come.
-- Answers {1, time until the token may be used} or {0, time until the next token}.
if redis.replicate_commands then redis.replicate_commands() end
local interval, tolerance, ahead = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
-- Counted from a day in 2023, so that a double has room for fractions.
local now = (tonumber(time[1]) - 1700000000) * 1000000 + tonumber(time[2])
local full = tonumber(redis.call('GET', KEYS[1]) or nil) or now
-- No further than an empty bucket: options may have changed, and clocks be set back.
full = math.min(math.max(full, now), now + interval + tolerance + ahead)
local wait = full - tolerance - now
if wait > ahead then return {0, math.ceil(wait)} end
full = full + interval
redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', string.format('%.0f', (full - now) / 1000 + 1000))
return {1, math.max(0, math.ceil(wait))}
