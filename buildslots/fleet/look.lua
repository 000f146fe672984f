-- Looking. Behind pool.lua, below "#!lua flags=no-writes": so a replica answers it, too. Nothing is purged:
-- what is dead has a negative time left.

local MOST_SHOWN = 1000 -- of those that wait and are ready, and of those that are not

local function holders()
  local shown = {}
  local scored = call('ZRANGE', HOLDS, 0, -1, 'WITHSCORES')
  for index = 1, #scored, 2 do
    local member, until_ = scored[index], tonumber(scored[index + 1])
    local numbers, info = call('HGET', NUMBERS, member) or '', call('HGET', INFO, member) or ''
    shown[#shown + 1] = { member, numbers, until_ - now, info }
  end
  return shown
end

local function waiters(key)
  local shown = {}
  local scored = call('ZRANGE', key, 0, MOST_SHOWN - 1, 'WITHSCORES')
  for index = 1, #scored, 2 do
    local member, seq = scored[index], tonumber(scored[index + 1])
    local until_ = tonumber(call('ZSCORE', BEATS, member) or now)
    local own, info = tonumber(call('HGET', OWN, member) or 0), call('HGET', INFO, member) or ''
    shown[#shown + 1] = { member, seq, until_ - now, own, info }
  end
  return shown
end

local function counts()
  local found = call('HMGET', CFG, 'granted', 'overflowed', 'regained', 'lapsed', 'deaf')
  for index = 1, 5 do
    found[index] = tonumber(found[index] or 0)
  end
  return found
end

if op ~= 'status' then
  return redis.error_reply('BADCALL no such operation')
end
if not load_pool() then
  return redis.error_reply('NOPOOL no such pool')
end
count_held()
local ready, unready = call('ZCARD', QUEUE), call('ZCARD', UNREADY)
return {
  rules_reply(), used, holders(), ready, waiters(QUEUE), unready, waiters(UNREADY),
  math.max(0, cfg.closed - now), math.max(0, cfg.grace - now), paused_total(), counts(),
}
