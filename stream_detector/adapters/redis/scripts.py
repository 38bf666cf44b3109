"""The writing calls as Lua scripts: each is atomic and one round trip. The package describes the keys."""

# The answer is a text: Lua numbers are doubles, and the client would read them back as integers anyway.
ACQUIRE = """
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
if token <= last then token = last + 1 end
local text = string.format('%.0f', token)
redis.call('HSET', KEYS[1], 'token', text)
redis.call('SADD', KEYS[2], ARGV[1])
return text
"""

# ARGV: token, epoch, positions, epoch and positions known, epoch that the states are changes to ('' for the newest,
# -1 when they are all there are), then asset, state, asset, state, ...; '' for a state: all versions of the asset go
SAVE = """
local meta, new, old = KEYS[1], KEYS[2], KEYS[3]
local epoch = tonumber(ARGV[2])
local found = redis.call('HMGET', meta, 'token', 'epoch', 'positions', 'sizes')
local last, known = tonumber(found[2] or '-1'), tonumber(ARGV[4])
if found[1] and found[1] ~= ARGV[1] then return {'fenced', found[1]} end
if not found[1] or last < known or (last == known and (found[3] or '') ~= ARGV[5]) then
  return {'lost', found[2] or 'none'}
end
local since = tonumber(ARGV[6])
local whole = since == -1
local first = epoch  -- this and later versions are taken back
if since and not whole then first = math.min(epoch, since + 1) end
local function epoch_of(version)
  return tonumber(string.match(version, '^(%d+):'))
end
local function gone(key)  -- a hash without fields doesn't exist
  local scanned = redis.call('HSCAN', key, '0', 'COUNT', '1')
  return scanned[1] == '0' and #scanned[2] == 0
end
local assets, olds  -- sizes of new and old; nil when not known
if last < 0 then
  assets, olds = 0, 0
elseif found[4] then
  local of, n, m = string.match(found[4], '^(%d+):(%d+):(%d+)$')
  if tonumber(of) == last then assets, olds = tonumber(n), tonumber(m) end  -- else written by an older version
end
local evicted = assets and assets > 0 and gone(new)
if evicted or (olds and olds > 0 and gone(old)) then
  if not whole and since ~= 0 then return {'lost', 'evicted'} end
  olds = 0
end
if evicted then  -- what is left of the versions before must not come back
  redis.call('DEL', old)
  redis.call('HDEL', meta, 'old_epoch', 'old_positions')
  assets = 0
end
local function removed(asset)
  local n, m = redis.call('HDEL', new, asset), redis.call('HDEL', old, asset)
  if assets then assets, olds = assets - n, olds - m end
end
if last >= first then
  local versions = redis.call('HGETALL', new)
  for i = 1, #versions, 2 do
    if epoch_of(versions[i + 1]) >= first then
      local before = redis.call('HGET', old, versions[i])
      if before and epoch_of(before) < first then
        redis.call('HSET', new, versions[i], before)
      else
        removed(versions[i])
      end
    end
  end
elseif last >= 0 and not evicted then
  redis.call('HSET', meta, 'old_epoch', found[2], 'old_positions', found[3])
end
for i = 7, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    removed(ARGV[i])
  else
    local version = redis.call('HGET', new, ARGV[i])
    local m = version and redis.call('HSET', old, ARGV[i], version) or 0
    local n = redis.call('HSET', new, ARGV[i], ARGV[2] .. ':' .. ARGV[i + 1])
    if assets then assets, olds = assets + n, olds + m end
  end
end
if whole then
  local versions = redis.call('HGETALL', new)
  for i = 1, #versions, 2 do
    if epoch_of(versions[i + 1]) ~= epoch then removed(versions[i]) end
  end
end
if not assets then assets, olds = #redis.call('HGETALL', new) / 2, #redis.call('HGETALL', old) / 2 end
redis.call('HSET', meta, 'epoch', ARGV[2], 'positions', ARGV[3],
  'sizes', string.format('%s:%d:%d', ARGV[2], assets, olds))
local before = redis.call('HGET', meta, 'old_epoch')
if before and tonumber(before) >= first then redis.call('HDEL', meta, 'old_epoch', 'old_positions') end
return {'saved', redis.call('GET', KEYS[4]) or '0'}
"""

# ARGV: token, then asset, report ('' for none), asset, ...
REPORT = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
return 1
"""

# Every command that the other scripts use; returns those that the user may not. Servers say so in several ways.
TRY = """
local refused = {}
local function try(name, ...)
  local answer = redis.pcall(name, ...)
  if type(answer) == 'table' and answer.err and
     (string.find(answer.err, 'permission') or string.find(answer.err, "can't run")) then
    refused[#refused + 1] = name
  end
end
try('TIME')
try('DEL', KEYS[1], KEYS[2])
try('HSET', KEYS[1], 'a', 'b')
try('HGET', KEYS[1], 'a')
try('HMGET', KEYS[1], 'a')
try('HGETALL', KEYS[1])
try('HDEL', KEYS[1], 'a')
try('SADD', KEYS[1], 'a')
try('SREM', KEYS[1], 'a')
try('INCR', KEYS[2])
try('GET', KEYS[2])
try('DEL', KEYS[1], KEYS[2])
try('ZADD', KEYS[1], 0, 'a')
try('ZCARD', KEYS[1])
try('ZRANGE', KEYS[1], 0, 0)
try('ZREM', KEYS[1], 'a')
try('DEL', KEYS[1], KEYS[2])
return refused
"""
# ARGV: how many to keep, then alert, ms, partition, offset, JSON, alert, ...
RECORD = """
for i = 2, #ARGV, 5 do
  local alert, ms, place, offset = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local kept = redis.call('HGET', KEYS[1], alert)
  local newer = true
  if kept then
    local a, b, c = string.match(kept, '^(-?%d+):(%d+):(%d+):')
    a, b, c = tonumber(a), tonumber(b), tonumber(c)
    if a ~= ms then newer = ms > a elseif b ~= place then newer = place > b else newer = offset >= c end
  end
  if newer then
    redis.call('HSET', KEYS[1], alert, table.concat({ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]}, ':'))
    redis.call('ZADD', KEYS[2], ARGV[i + 1], alert)
  end
end
local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[1])
if surplus > 0 then
  for _, alert in ipairs(redis.call('ZRANGE', KEYS[2], 0, surplus - 1)) do
    redis.call('HDEL', KEYS[1], alert)
    redis.call('ZREM', KEYS[2], alert)
  end
end
"""
# ARGV: task, asset, first ms, last ms, task, ...
STAYS = """
local shared = {}
for i = 1, #ARGV, 4 do
  local task, asset, first, last = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local kept = redis.call('HGET', KEYS[1], asset) or ''
  local stays, place = {}, nil
  for of, a, b in string.gmatch(kept, '(%d+):(-?%d+):(-?%d+)') do
    stays[#stays + 1] = of .. ':' .. a .. ':' .. b
    if of == task then
      place = #stays
      first, last = math.min(first, tonumber(a)), math.max(last, tonumber(b))
    end
  end
  stays[place or #stays + 1] = string.format('%s:%.0f:%.0f', task, first, last)
  local value = table.concat(stays, ',')
  if value ~= kept then redis.call('HSET', KEYS[1], asset, value) end
  if #stays > 1 then
    if redis.call('SADD', KEYS[2], asset) == 1 then redis.call('INCR', KEYS[3]) end
    shared[#shared + 1] = asset
    shared[#shared + 1] = value
  end
end
return {redis.call('GET', KEYS[3]) or '0', shared}
"""
PIN = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return redis.call('INCR', KEYS[2])"
UNPIN = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('INCR', KEYS[2])
return 1
"""
RESET = """
local time = redis.call('TIME')
if ARGV[1] == '*' then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%016.0f', time[1] * 1000000 + time[2]))
return redis.call('INCR', KEYS[2])
"""
# ARGV: asset, what stands after the token
MARK = """
local time = redis.call('TIME')
local token = string.format('%016.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], ARGV[1], token .. ARGV[2])
return redis.call('INCR', KEYS[2])
"""
# KEYS: removals, controls, then the operators' settings; ARGV: action, asset, then its field in each of the settings
REMOVE = """
local time = redis.call('TIME')
local token = string.format('%016.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], ARGV[2], token .. ':' .. ARGV[1])
for i = 3, #KEYS do redis.call('HDEL', KEYS[i], ARGV[i]) end
redis.call('INCR', KEYS[2])
return token
"""
# KEYS: removals, controls; ARGV: asset, token
SETTLE = """
local order = redis.call('HGET', KEYS[1], ARGV[1])
if not order or string.match(order, '^(%d+):') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('INCR', KEYS[2])
return 1
"""
# KEYS: verdicts, their times; ARGV: alerts
DELETE_VERDICTS = """
local deleted = 0
for _, alert in ipairs(ARGV) do
  deleted = deleted + redis.call('HDEL', KEYS[1], alert)
  redis.call('ZREM', KEYS[2], alert)
end
return deleted
"""
