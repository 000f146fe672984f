-- What builds do: join, over, renew, drop. Behind pool.lua, below "#!lua flags=allow-oom": a full memory must
-- keep nobody from letting go.

local LARGEST_NUMBER = 999999999 -- of a slot: ".." and table.concat print it
local MODES = { wait = true, unready = true, try = true }
local FULL = redis.error_reply('FULL the line has no room for more')
local SIGNS = { high = 1, normal = 0, low = -1 }

-- Believe a client that knows younger rules than this server: a flush, or a replica that was behind, has lost
-- them. Whether there is a pool now.
local function learn(known, exists)
  local version, cap, lease, confirm, ticket, head_start =
    string.match(known, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  version = whole(version, 1, math.max(cfg.version, now) + LONGEST_HEAD_START)
  cap, head_start = whole(cap, 1, MOST_CAP), whole(head_start, 0, LONGEST_HEAD_START)
  lease, ticket = whole(lease, 1, LONGEST_LEASE), whole(ticket, 1, LONGEST_LEASE)
  confirm = lease and whole(confirm, 1, lease)
  if not (version and cap and lease and confirm and ticket and head_start) or version <= cfg.version then
    return exists
  end
  adopt(version, cap, lease, confirm, ticket, head_start)
  log('buildslots', string.format('learned again from a client: slots=%d', cap))
  if not exists then -- whoever holds a slot registers again before anybody gets one
    set('closed', now + lease)
    set('grace', now + lease)
  end
  return true
end

-- The line.

local function claimed_seq(priority, seq)
  local arrival = seq + SIGNS[priority] * cfg.head_start
  set('last', math.max(cfg.last, arrival)) -- this server's clock may be behind that of the one before
  return seq
end

local function new_seq(priority)
  local arrival = math.max(cfg.last + 1, now)
  set('last', arrival)
  local sign = SIGNS[priority]
  if sign == 0 then
    return arrival
  end
  -- Among equals the order is that of arrival, also when what a priority is worth has been changed.
  local field = 'last_' .. priority
  local before = tonumber(call('HGET', CFG, field) or 0)
  local seq = math.max(arrival - sign * cfg.head_start, before + 1)
  set(field, seq)
  return seq
end

local function enter(is_ready, new, priority, seq)
  local mine, other = QUEUE, UNREADY
  if not is_ready then
    mine, other = UNREADY, QUEUE
  end
  if not call('ZSCORE', mine, id) then
    local place = tonumber(call('ZSCORE', other, id) or '')
    if place then
      call('ZREM', other, id)
      unready_left = unready_left + (is_ready and 1 or 0)
    end
    call('ZADD', mine, place or new(priority, seq), id)
  end
  call('ZADD', BEATS, now + cfg.ticket, id)
end

-- Whether the line has no room for one that is not in it.
local function is_full()
  return call('ZCARD', BEATS) >= MOST_WAITERS and not call('ZSCORE', BEATS, id)
end

local function note(info, own)
  if #info > 0 then
    call('HSET', INFO, id, info)
  end
  if own > 0 then
    call('HSET', OWN, id, own)
  else
    call('HDEL', OWN, id)
  end
end

-- When something may happen though nobody calls; nil if the caller has not to care.
local function next_event(rank)
  if is_unfinished then
    return now
  elseif not rank or rank >= WATCHERS then
    return nil
  elseif is_paused() then
    return cfg.pause_until
  elseif now < cfg.closed then
    return cfg.closed
  end
  local first = call('ZRANGE', HOLDS, 0, 0, 'WITHSCORES')[2]
  return first and math.max(tonumber(first), cfg.grace)
end

local function answer(state, turn)
  local seq, place, near, rank = 0, -1, 0, nil
  if state == 'waiting' then
    local score = call('ZSCORE', QUEUE, id)
    if score then
      rank = call('ZRANK', QUEUE, id)
      place = rank + call('ZCOUNT', UNREADY, '-inf', '(' .. score)
    else
      score = call('ZSCORE', UNREADY, id)
      local before = call('ZRANK', UNREADY, id)
      near = before < NEAR * cfg.cap and 1 or 0
      place = before + call('ZCOUNT', QUEUE, '-inf', '(' .. score)
    end
    seq = tonumber(score)
  end
  count_held()
  local event = next_event(rank)
  local until_, who, why = pause()
  local numbers, length = call('HGET', NUMBERS, id) or '', call('ZCARD', QUEUE) + call('ZCARD', UNREADY)
  return {
    state, numbers, place, length, used, cfg.cap, seq,
    event and math.max(1, math.ceil((event - now) / 1000)) or -1, now, paused_total(), until_, who, why,
    math.max(0, cfg.closed - now), near, turn or 0, token(),
  }
end

-- The operations.

-- Of one that holds already: that was given slots and confirms.
local function confirm()
  call('ZADD', HOLDS, now + cfg.lease, id)
  purge()
  advance()
  return answer('held')
end

local function join()
  local mode, priority, info = ARGV[4], ARGV[5], ARGV[8]
  local own, seq = whole(ARGV[6], 0, LARGEST), whole(ARGV[7], 0, LARGEST)
  if not (MODES[mode] and SIGNS[priority] and own and seq and info and #info <= LONGEST_INFO) then
    return redis.error_reply('BADCALL arguments of join')
  end
  if call('ZSCORE', HOLDS, id) then
    return confirm()
  end
  local is_claim = seq > 0 and seq <= math.max(cfg.last, now) + cfg.head_start
  if is_full() then
    return FULL
  end
  note(info, own)
  enter(mode ~= 'unready', is_claim and claimed_seq or new_seq, priority, seq)
  purge()
  advance(id)
  if call('ZSCORE', HOLDS, id) then
    return answer('held')
  elseif mode == 'try' then
    leave_line(id)
    forget(id)
    return answer('refused')
  end
  return answer('waiting')
end

-- How long until one that is paced may go beyond the cap. While nothing happens, one in each `paced` does so,
-- in the order of the line; and so does whoever has not come forward for one `paced` more than its turn.
local function turn_left(paced, waited, stuck)
  local score = '(' .. call('ZSCORE', QUEUE, id)
  local turns = 1 + call('ZCOUNT', QUEUE, '-inf', score) + call('ZCOUNT', UNREADY, '-inf', score)
  local quiet = now - cfg.changed - (paused_total() - cfg.changed_paused)
  return math.min(turns * paced - math.min(quiet, waited), (turns + 1) * paced - stuck)
end

local function over()
  local paced, waited = whole(ARGV[4], 0, LARGEST), whole(ARGV[5], 0, LARGEST)
  local stuck = whole(ARGV[6], 0, LARGEST)
  local own, info = whole(ARGV[7], 0, LARGEST), ARGV[8]
  if not (paced and waited and stuck and own and info and #info <= LONGEST_INFO) then
    return redis.error_reply('BADCALL arguments of over')
  end
  if call('ZSCORE', HOLDS, id) then
    return confirm()
  end
  if is_full() then
    return FULL
  end
  note(info, own)
  enter(true, new_seq, 'normal')
  purge()
  advance(id)
  if call('ZSCORE', HOLDS, id) then
    return confirm()
  elseif is_paused() then
    return answer('waiting')
  end
  local left = paced > 0 and turn_left(paced, waited, stuck) or 0
  if left > 0 then
    return answer('waiting', left)
  end
  local cap = cap_of(id)
  leave_line(id)
  count_held()
  give(id, lowest_free(cap, math.min(weight_of(id), cap)), now + cfg.lease, true)
  count('overflowed')
  return answer('held')
end

-- The slots that `text` names, ascending; none if that is nonsense.
local function numbers_in(text)
  local numbers, before = {}, -1
  for each in string.gmatch(text, '%d+') do
    local number = whole(each, before + 1, LARGEST_NUMBER)
    if not number then
      return {}
    end
    numbers[#numbers + 1], before = number, number
  end
  return #numbers <= weight_of(id) and numbers or {}
end

-- Slots for one that runs and has lost its lease: its old ones if nobody has them. Nobody stops a build.
local function regain(wanted)
  count_held()
  local numbers = numbers_in(wanted)
  local are_free = #numbers > 0
  for _, number in ipairs(numbers) do
    are_free = are_free and not taken[number]
  end
  -- As many as it has: the cap may have been another one when it got them.
  local weight = #numbers > 0 and #numbers or math.min(weight_of(id), cfg.cap)
  local is_overflow = used + weight > cfg.cap
  if not are_free then
    numbers = lowest_free(is_overflow and cfg.cap or 0, weight)
  end
  leave_line(id)
  give(id, numbers, now + cfg.lease, is_overflow)
  count('regained')
end

local function renew()
  local wanted, info = ARGV[4], ARGV[5]
  if not (wanted and #wanted <= LONGEST_NUMBERS and info and #info <= LONGEST_INFO) then
    return redis.error_reply('BADCALL arguments of renew')
  end
  if #info > 0 then
    call('HSET', INFO, id, info)
  end
  if call('ZSCORE', HOLDS, id) and call('HEXISTS', NUMBERS, id) == 1 then
    return confirm()
  end
  let_go(id) -- only its numbers were lost
  purge()
  regain(wanted)
  advance()
  return answer('held')
end

local function drop()
  let_go(id)
  leave_line(id)
  forget(id)
  purge()
  advance()
  return answer('gone')
end

local OPERATIONS = { join = join, over = over, renew = renew, drop = drop }
if not (OPERATIONS[op] and string.match(id or '', '^%x+%.%d+$')) then
  return redis.error_reply('BADCALL no such operation, or no id')
end
local exists = load_pool()
if op ~= 'drop' then
  exists = learn(ARGV[3] or '', exists)
end
if not exists then
  return redis.error_reply('NOPOOL no such pool')
end
begin()
return finish(OPERATIONS[op]())
