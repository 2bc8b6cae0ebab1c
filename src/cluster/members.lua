-- Notes that a member is there, forgets those that were not heard of, and lets one lead. By the clock of the server.
-- KEYS: the members, the leader. ARGV: name and nonce of the member, its time to live in ms, what it is, present time
-- (for people), 1 when it leaves.
-- Answers {1 when it is a member, the leader or '', what each member is...}.
if redis.replicate_commands then redis.replicate_commands() end
local id, nonce, ttl, text, shown, leaves = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6] == '1'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local leader = redis.call('GET', KEYS[2])
local mine = leader and string.sub(leader, 1, #nonce) == nonce
local taken = false
local found = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends, other, what = string.match(all[i + 1], '^(%d+) (%S+) (.*)$')
  if not ends or tonumber(ends) < now or (all[i] == id and other == nonce) then
    redis.call('HDEL', KEYS[1], all[i])
  else
    if all[i] == id then taken = true end
    found[#found + 1] = what
  end
end
if leaves then
  if mine then redis.call('DEL', KEYS[2]) end
  return {0, '', unpack(found)}
end
if taken then return {0, '', unpack(found)} end
redis.call('HSET', KEYS[1], id, string.format('%.0f', now + ttl) .. ' ' .. nonce .. ' ' .. text)
redis.call('PEXPIRE', KEYS[1], ttl * 4)
if not leader then
  leader = nonce .. ' ' .. shown .. ' ' .. id
  redis.call('SET', KEYS[2], leader, 'PX', ttl)
elseif mine then
  redis.call('PEXPIRE', KEYS[2], ttl)
end
found[#found + 1] = text
return {1, leader, unpack(found)}
