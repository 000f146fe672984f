-- A pool on a server, as every script of this directory sees it: the clock, the rules, the guards, who holds
-- what, and who is next. A script is this text with one of slots.lua, rules.lua and look.lua behind it, below
-- a first line that says what it may do. PROTOCOL.md says what each takes and answers.
--
-- It decides alone, by the server's clock alone: no client's clock, count or order of messages is believed.
-- Times are whole microseconds, which a Lua number holds exactly until the year 2255. ".." would print them
-- with 14 digits: so numbers go into commands as numbers, and into texts by %d.

local call = redis.call

-- The one place that asks for the time. Tests put a clock of their own in the place of this function.
local function clock()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local POOL = KEYS[1] -- "bs:{NAME}:"
local CFG, LOG = POOL .. 'cfg', POOL .. 'log'
local QUEUE, UNREADY, BEATS = POOL .. 'q', POOL .. 'u', POOL .. 'hb'
local HOLDS, NUMBERS, INFO, OWN = POOL .. 'h', POOL .. 'n', POOL .. 'i', POOL .. 'o'

local SECOND = 1000000
local MOST_PURGED = 64 -- of the dead in one call, and of the deaf that are passed over
local MOST_CAP = 10000 -- of slots, and of a weight: a call counts them one by one
local MOST_WAITERS = 20000
local LARGEST = 2 ^ 53
local LONGEST_LEASE, LONGEST_HEAD_START = 3600 * SECOND, 86400 * SECOND
local LONGEST_PAUSE = 4 * 3600 * SECOND -- nobody may turn a pool off for good
local LONGEST_INFO, LONGEST_NUMBERS, LONGEST_WORDS = 4096, 65536, 400 -- bytes
local KEPT_CHANGES = 20
local NEAR = 4 -- times the cap: so many of those that are not ready are asked to become so
local WATCHERS = 3 -- the first in line, who wake when something may happen by the mere passing of time

local op, id = ARGV[1], ARGV[2]
local now = clock()

-- Numbers of the pool, 0 where nothing was written yet. Besides these its hash has `run`, `pause_who`,
-- `pause_why`, `last_high`, `last_low`, and what `count` counts: they are read where they are needed.
local FIELDS = {
  'version', 'cap', 'lease', 'confirm', 'ticket', 'head_start', 'seen', 'last', 'grace', 'closed',
  'pause_since', 'pause_until', 'paused', 'changed', 'changed_paused',
}
local cfg, written = {}, {}

-- Whether there is such a pool.
local function load_pool()
  local values = call('HMGET', CFG, 'run', unpack(FIELDS))
  cfg.run = values[1] or ''
  for index, name in ipairs(FIELDS) do
    cfg[name] = tonumber(values[index + 1] or 0)
  end
  -- Whoever may write the pool's hash may have put anything there.
  cfg.pause_until = math.min(cfg.pause_until, cfg.pause_since + LONGEST_PAUSE)
  return cfg.cap > 0
end

local function set(name, value)
  if cfg[name] ~= value then
    cfg[name], written[name] = value, true
  end
end

local function count(name)
  call('HINCRBY', CFG, name, 1)
end

local function store_pool()
  local changes = {}
  for name in pairs(written) do
    changes[#changes + 1] = name
    changes[#changes + 1] = cfg[name]
  end
  if #changes > 0 then
    call('HSET', CFG, unpack(changes))
  end
end

-- The number that a text is, if it is one between these two.
local function whole(text, least, most)
  local value = string.match(text or '', '^%d+$') and #text <= 16 and tonumber(text)
  return value and value >= least and value <= most and value or nil
end

local function log(who, what)
  local line = string.gsub(string.sub(who, 1, LONGEST_WORDS), '%c', ' ')
  local change = string.gsub(string.sub(what, 1, LONGEST_WORDS), '%c', ' ')
  call('ZADD', LOG, now, string.format('%d\n%s\n%s', now, line, change))
  call('ZREMRANGEBYRANK', LOG, 0, -KEPT_CHANGES - 1)
end

-- The rules as clients know them, and give them back: a server that has lost them learns them again.

local function token()
  return string.format('%d %d %d %d %d %d',
    cfg.version, cfg.cap, cfg.lease, cfg.confirm, cfg.ticket, cfg.head_start)
end

local function adopt(version, cap, lease, confirm, ticket, head_start)
  set('version', version)
  set('cap', cap)
  set('lease', lease)
  set('confirm', confirm)
  set('ticket', ticket)
  set('head_start', head_start)
end

-- Guards. Each stands for a fault that broke the bound without it: see PROTOCOL.md.

local function guard_restart()
  local run = string.match(call('INFO', 'server'), 'run_id:(%x+)') or ''
  if cfg.run ~= run then
    if cfg.run ~= '' then
      set('closed', now + cfg.lease)
      set('grace', now + cfg.lease)
    end
    set('run', run)
  end
end

local function guard_stall()
  if now - cfg.seen > cfg.lease / 2 and cfg.seen > 0 and call('ZCARD', HOLDS) > 0 then
    set('grace', math.max(cfg.grace, math.floor(now + cfg.lease / 3 + SECOND / 2)))
  end
end

local function clamp(key, latest)
  for _, member in ipairs(call('ZRANGE', key, '(' .. string.format('%d', latest), '+inf', 'BYSCORE')) do
    call('ZADD', key, latest, member)
  end
end

local function guard_clock()
  if now < cfg.seen then -- only then can anything be later than it may be
    clamp(HOLDS, now + cfg.lease)
    clamp(BEATS, now + cfg.ticket)
    set('grace', math.min(cfg.grace, now + cfg.lease))
    set('closed', math.min(cfg.closed, now + cfg.lease))
    set('changed', math.min(cfg.changed, now))
  end
end

-- Pauses. `paused` counts the microseconds of those that are over.

local function is_paused()
  return cfg.pause_until > 0 and cfg.pause_since <= now and now < cfg.pause_until
end

local function paused_total()
  local total = cfg.paused
  if cfg.pause_until > 0 then
    total = total + math.max(0, math.min(now, cfg.pause_until) - cfg.pause_since)
  end
  return total
end

-- Until when, who, why; 0 if none is on.
local function pause()
  if not is_paused() then
    return 0, '', ''
  end
  local said = call('HMGET', CFG, 'pause_who', 'pause_why')
  return cfg.pause_until, cfg.pause_who or said[1] or '', cfg.pause_why or said[2] or ''
end

local function end_pause()
  set('paused', paused_total())
  set('pause_since', 0)
  set('pause_until', 0)
end

-- The guards, and what time alone has changed. At the begin of every call that writes.
local function begin()
  guard_restart()
  guard_stall()
  guard_clock()
  set('seen', now)
  if cfg.pause_until > 0 and not is_paused() then
    end_pause()
  end
end

-- Who holds what. A holder whose numbers are lost counts by the weight in its id.

local function mark_change()
  set('changed', now)
  set('changed_paused', paused_total())
end

local function weight_of(member)
  return math.max(1, math.min(tonumber(string.match(member, '%.(%d+)$') or 1), MOST_CAP))
end

local taken, used -- numbers of slots, and how many; nil while nobody has counted

-- How many slots a member holds, of which the server knows `text`.
local function take_note(member, text)
  local number, known = tonumber(text or ''), 0
  if number then -- nearly always one alone
    taken[number] = true
    return 1
  end
  for each in string.gmatch(text or '', '%d+') do
    taken[tonumber(each)] = true
    known = known + 1
  end
  return known > 0 and known or weight_of(member)
end

local function count_held()
  if used then
    return
  end
  taken, used = {}, 0
  if call('ZCARD', HOLDS) == call('HLEN', NUMBERS) then
    for _, text in ipairs(call('HVALS', NUMBERS)) do
      used = used + take_note('', text)
    end
    return
  end
  local members = call('ZRANGE', HOLDS, 0, -1) -- something was lost: by what is left
  for first = 1, #members, 1000 do -- what is unpacked has a few thousand items at most
    local last = math.min(first + 999, #members)
    for index, text in ipairs(call('HMGET', NUMBERS, unpack(members, first, last))) do
      used = used + take_note(members[first + index - 1], text)
    end
  end
end

local function lowest_free(from, wanted)
  local found, number = {}, from
  while #found < wanted do
    if not taken[number] then
      found[#found + 1] = number
    end
    number = number + 1
  end
  return found
end

local function give(member, numbers, until_, is_overflow)
  for _, number in ipairs(numbers) do
    taken[number] = true
  end
  used = used + #numbers
  call('ZADD', HOLDS, until_, member)
  call('HSET', NUMBERS, member, table.concat(numbers, ',') .. (is_overflow and '!' or ''))
  mark_change()
end

local unready_left = 0 -- how many have left those that are not ready, in this call

local function leave_line(member)
  call('ZREM', QUEUE, member)
  unready_left = unready_left + call('ZREM', UNREADY, member)
  call('ZREM', BEATS, member)
end

local function forget(member)
  call('HDEL', INFO, member)
  call('HDEL', OWN, member)
end

local function let_go(member)
  if call('ZREM', HOLDS, member) == 1 then
    call('HDEL', NUMBERS, member)
    taken, used = nil, nil
    mark_change()
  end
end

local function purge()
  if now < cfg.grace then
    return
  end
  for _, member in ipairs(call('ZRANGE', HOLDS, '-inf', now, 'BYSCORE', 'LIMIT', 0, MOST_PURGED)) do
    let_go(member)
    forget(member)
    count('lapsed')
  end
  for _, member in ipairs(call('ZRANGE', BEATS, '-inf', now, 'BYSCORE', 'LIMIT', 0, MOST_PURGED)) do
    leave_line(member)
    forget(member)
  end
end

-- Who is next.

local function cap_of(member)
  local own = tonumber(call('HGET', OWN, member) or 0)
  return own > 0 and math.min(own, cfg.cap) or cfg.cap
end

local is_unfinished = false -- whether somebody has to call again at once

-- Should one that was given slots be cut off, the first in line is awake when the time to confirm is over.
local function wake_the_next(alive)
  local soon = string.format('soon %d', is_unfinished and 1 or math.ceil(cfg.confirm / 1000))
  for _, member in ipairs(call('ZRANGE', QUEUE, 0, WATCHERS - 1)) do
    if member == alive or call('PUBLISH', POOL .. member, soon) > 0 then
      return
    end
  end
end

-- Give slots to the first in line while there are enough for it. `alive` is whom the answer tells.
local function advance(alive)
  if now < cfg.closed or is_paused() then
    return
  end
  count_held()
  local is_one_to_confirm = false
  for tries = 1, MOST_PURGED do
    local head = call('ZRANGE', QUEUE, 0, 0)[1]
    if not head then
      break
    end
    local cap = cap_of(head)
    local weight = math.min(weight_of(head), cap)
    if used + weight > cap then -- it blocks the line, whatever those behind could do with less
      break
    end
    leave_line(head)
    if head == alive or call('PUBLISH', POOL .. head, 'go') > 0 then
      give(head, lowest_free(0, weight), now + cfg.confirm)
      count('granted')
      is_one_to_confirm = true
    else -- nobody listens: it comes back at its old place with its next beat
      forget(head)
      count('deaf')
    end
    is_unfinished = tries == MOST_PURGED
  end
  if is_one_to_confirm or is_unfinished then
    wake_the_next(alive)
  end
end

-- Of those that are not ready, tell whoever has come near the head by what this call has done.
local function wake_the_near()
  if unready_left > 0 then
    local last = NEAR * cfg.cap
    for _, member in ipairs(call('ZRANGE', UNREADY, math.max(0, last - unready_left), last - 1)) do
      call('PUBLISH', POOL .. member, 'near')
    end
  end
end

-- At the end of every call that writes.
local function finish(reply)
  wake_the_near()
  store_pool()
  return reply
end

local function rules_reply()
  local until_, who, why = pause()
  return { token(), now, until_, who, why, call('ZRANGE', LOG, 0, -1) }
end
