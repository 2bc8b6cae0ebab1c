-- Takes tokens from several buckets: from all of them, or from none if an enforced one does not have them.
-- KEYS: the buckets. ARGV, seven for each: time between two tokens, burst, cost, how long one may wait, the most tokens
-- that count as used, the demand (0: shadow, 1: enforced, 2: charge even without tokens), and the lifetime of the bucket in
-- milliseconds (0: until a second after it is full again). Other times are in microseconds.
-- Each bucket is kept as the number of tokens in use and the time when that was.
-- Answers four numbers for each: 1 if the tokens are there, the time until then, tokens left, time until it is full.
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
-- Counted from a day in 2023, so that a double has room for fractions.
local now = (tonumber(time[1]) - 1700000000) * 1000000 + tonumber(time[2])
local buckets, refused = {}, false
for i = 1, #KEYS do
  local a = (i - 1) * 7
  local b = {
    interval = tonumber(ARGV[a + 1]), burst = tonumber(ARGV[a + 2]), cost = tonumber(ARGV[a + 3]),
    ahead = tonumber(ARGV[a + 4]), most = tonumber(ARGV[a + 5]), demand = ARGV[a + 6], life = tonumber(ARGV[a + 7]), used = 0,
  }
  local kept = redis.call('GET', KEYS[i])
  local used, at = string.match(kept or '', '^(%S+) (%S+)$')
  used, at = tonumber(used or nil), tonumber(at or nil)
  if used and at then
    b.used = math.min(math.max(used - math.max(now - at, 0) / b.interval, 0), b.most)
  end
  if b.life > 0 and kept then
    local left = redis.call('PTTL', KEYS[i])
    if left > 0 then b.life = left end
  end
  b.wait = (b.used + math.min(b.cost, b.burst) - b.burst) * b.interval
  if b.wait < 1 then b.wait = 0 end
  b.is_in = b.demand == '2' or b.wait <= b.ahead
  if not b.is_in and b.demand == '1' then refused = true end
  buckets[i] = b
end
local answer = {}
for i, b in ipairs(buckets) do
  if b.is_in and not refused and b.cost > 0 then
    b.used = math.min(b.used + b.cost, b.most)
    local expiry = b.life > 0 and b.life or math.min(b.used * b.interval / 1000 + 1000, 315360000000)
    redis.call('SET', KEYS[i], string.format('%.6f %.0f', b.used, now), 'PX', string.format('%.0f', expiry))
  end
  table.insert(answer, b.is_in and 1 or 0)
  table.insert(answer, math.ceil(math.min(b.wait, 3.2e15)))
  table.insert(answer, math.max(0, math.floor(b.burst - b.used + 0.000001)))
  table.insert(answer, b.life > 0 and b.life * 1000 or math.ceil(math.min(b.used * b.interval, 3.2e15)))
end
return answer
