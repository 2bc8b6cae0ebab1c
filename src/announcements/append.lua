-- Adds an announcement, replaces the switches of routers, or only reads both. A list that is gone is begun again where the
-- caller is.
-- KEYS: the head (series and highest number), the list, the switches. ARGV: series and number of the caller, maximum
-- length of the list, the announcement or '', the digest of the switches that are replaced, the new ones or ''.
-- Answers {series, number, digest of the switches, the switches or '', number and text of each announcement, the newest
-- first...}; only the first two after a change; nothing if the switches are others.
local series, known, kept, text = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local is_read = text == '' and ARGV[6] == ''
local switches, digest
if is_read or ARGV[6] ~= '' then
  switches = redis.call('GET', KEYS[3]) or ''
  digest = redis.sha1hex(switches)
end
if ARGV[6] ~= '' then
  if digest ~= ARGV[5] then return {} end
  redis.call('SET', KEYS[3], ARGV[6])
end
local head = redis.call('HMGET', KEYS[1], 'series', 'number')
local number = tonumber(head[2] or '0') or 0
if not head[1] then
  redis.call('DEL', KEYS[2])
  number = known
elseif head[1] ~= series then
  series = head[1]
elseif number < known then
  number = known
end
if text ~= '' then number = number + 1 end
local shown = string.format('%.0f', number)
redis.call('HSET', KEYS[1], 'series', series, 'number', shown)
if text ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', kept, shown .. '-0', 'text', text)
end
if not is_read then return {series, shown} end
local answer = {series, shown, digest, switches}
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', kept)) do
  answer[#answer + 1] = string.match(entry[1], '^%d+')
  answer[#answer + 1] = entry[2][2]
end
return answer
