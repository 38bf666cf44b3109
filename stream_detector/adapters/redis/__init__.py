"""Thresholds and incidents in Redis (6 or newer) or Valkey. The only package that imports the client.

    store       the calls: a ports.StateStore
    scripts     those that write, as Lua, each one round trip and atomic
    connection  how it is reached, and what goes wrong there in our words

Layout, with P = `<prefix>:{<stream>}`; the braces keep all keys of a stream on one node of a cluster:

    P:tasks            set      ids of the tasks that were ever acquired
    P:task:<n>         hash     token; epoch, positions: of the newest save; old_epoch, old_positions: the one before;
                                sizes: that epoch, and of how many assets the two hashes below hold a version
    P:task:<n>:new     hash     asset -> "<epoch>:" and the state's bytes, the newest version
    P:task:<n>:old     hash     asset -> the same, the version before
    P:task:<n>:seen    hash     asset -> what a worker last saw of it, as JSON (`stream-detector assets`)
    P:stays            hash     asset -> "<task>:<first>:<last>,…", when each task has read it, event time, ms
    P:stays:shared     set      the assets that several tasks have read
    P:stays:count      string   count of those
    P:pins             hash     asset -> level, as text that Python reads back exactly
    P:resets           hash     asset ("" for one named "*"), or "*" for all -> token of the last reset
    P:accepts          hash     asset -> token of the last acceptance of a regime change
    P:rollbacks        hash     asset -> token of the last rollback, ":" and the state to go back to
    P:removals         hash     asset -> token of the last removal, ":" and what was asked for: retire, forget
    P:controls         string   count of the changes to the five above
    P:verdicts         hash     alert's id -> "<ms>:<partition>:<offset>:" and the rest as JSON
    P:verdicts:times   zset     alert's id -> ms, to find the oldest

Every writing call is one script and so atomic, and one round trip. What it keeps:

- Fencing. `acquire` takes a token above every earlier one, and not below the server's clock in microseconds: tokens
  stay new even when the store was emptied. `save` with any other token than the newest writes nothing.
- Two versions. A save of epoch e moves a version below e from new to old; a version of e or above is of a commit that
  never came to be (a crash between save and commit) and is overwritten. When an earlier save reached e or beyond,
  those of its versions that this save does not overwrite go too: they belong to the commit that was not. So a save of
  an epoch replaces an earlier save of it whole, and a repeated save (an answer lost on the way) changes nothing.
  A writer says since which save its states have changed: between that and this one, commits may have missed the store,
  and what it holds of their epochs is somebody's first try of one of them. It goes in the same way. A version may also
  be the mark of a removed asset, "removed:<judged>:<read>:<token>" (worker/removed.py).
- Loss. Each RedisStore remembers the newest save it last knew of a task. When the task's hash is gone, or stands at an
  older epoch or token, or at other positions (a server back without its last seconds), a save of changes alone would
  leave a mixture that looks whole; it raises StoreLostError instead and writes nothing. Then: acquire again, and save
  all states (`since` WHOLE): of assets that are not among them nothing stays. A server whose memory is full may evict
  single keys: where a task's hash says that there are versions and their hash is gone, a save finds the loss as well,
  and a load returns no states and says so. (Versions before 0.3 wrote no sizes: their data is believed.)

A control's reset token is the server's time in microseconds, 16 digits: of two, the later one sorts last.
The rights it needs are in `rights.redis_rules`; what is called here and is not there is refused (docs/security.md).
"""

from stream_detector.adapters.redis.store import RedisStore

__all__ = ["RedisStore"]
