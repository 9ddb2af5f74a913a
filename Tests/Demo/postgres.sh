# A private PostgreSQL cluster and a writer that logs what was acknowledged. Sourced.
#
# The writer commits one row after the other, numbered from 1, and appends the number to $acks once the server has said
# that it is committed. So after a crash the table must hold at least the rows of $acks, and no more than the one commit
# whose answer was still on its way.

pg_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
acks=
writer_pid=

as_postgres() { (cd / && exec runuser -u postgres -- "$@"); }

sql() { as_postgres psql -X -q -A -t -v ON_ERROR_STOP=1 -h "$work/pg" -d postgres -c "$1"; }

# pg_create DATA: a new cluster with some content.
pg_create() {
    install -d -o postgres -g postgres -m 700 "$1"
    as_postgres "$pg_bin/initdb" -D "$1" ${pg_segment:+--wal-segsize="$pg_segment"} -A peer --no-instructions -E UTF8 --locale=C > "$work/log/initdb" \
        || fail "initdb: $(tail -n 3 "$work/log/initdb")"
}

# pg_start DATA: recovers when it has to.
pg_start() {
    as_postgres "$pg_bin/pg_ctl" start -w -t 180 -s -D "$1" -l "$work/pg/log" -o \
        "-k '$work/pg' -c listen_addresses='' -c shared_buffers=64MB -c max_wal_size=256MB -c autovacuum=off" 2>> "$work/log/pg_ctl" \
        || fail "PostgreSQL does not start: $(tail -n 5 "$work/pg/log")"
    pg_data=$1
    pg_pid=$(head -n 1 "$1/postmaster.pid")
}

# pg_stop MODE: fast, or immediate as in a crash.
pg_stop() {
    [ -n "${pg_data:-}" ] || return 0
    # On a file system that has failed pg_ctl may not get at its files.
    if ! as_postgres "$pg_bin/pg_ctl" stop -w -t 180 -s -m "$1" -D "$pg_data" 2>> "$work/log/pg_ctl"; then
        kill -QUIT "$pg_pid" 2>/dev/null || true
    fi
    # It has removed its lock file by now, which on a file system that has failed comes back; the process has to be gone.
    timeout 180 tail --pid="$pg_pid" -f /dev/null || fail "PostgreSQL does not end"
    pg_data=
}

# pg_fill SCALE
pg_fill() {
    as_postgres "$pg_bin/pgbench" -i -q -s "$1" -h "$work/pg" postgres 2> "$work/log/pgbench" \
        || fail "pgbench: $(tail -n 3 "$work/log/pgbench")"
    sql "CREATE TABLE commits (n bigint PRIMARY KEY, payload text NOT NULL)"
}

# One commit after the other until PostgreSQL goes away. Between two commits it stops while $work/hold is there, tells so
# in the pipe $work/held, and waits for a line in $work/go.
writer() {
    local n=$1 answer
    coproc SERVER { exec runuser -u postgres -- psql -X -q -A -t -h "$work/pg" -d postgres 2>> "$work/log/writer"; }
    local to=${SERVER[1]} from=${SERVER[0]}
    while :; do
        if [ -e "$work/hold" ]; then
            echo held > "$work/held"
            read -r _ < "$work/go"
        fi
        printf '%s\n' "WITH spread AS (UPDATE pgbench_accounts SET abalance = abalance + 1
            WHERE aid = (SELECT 1 + (random() * ($accounts - 1))::int))
            INSERT INTO commits SELECT $n, string_agg(md5(random()::text), '') FROM generate_series(1, 64)
            RETURNING n;" >&"$to" 2>/dev/null || return 0
        read -r answer <&"$from" || return 0
        [ "$answer" = "$n" ] || return 1
        echo "$n" >> "$acks"
        n=$((n + 1))
    done
}

writer_start() {
    local last
    last=$(sql "SELECT coalesce(max(n), 0) FROM commits")
    # A commit whose answer the crash swallowed is acknowledged by now: we have just read it.
    [ "$last" -le "$(acknowledged)" ] || echo "$last" >> "$acks"
    (trap - EXIT INT TERM HUP; cd /; writer $((last + 1))) &
    writer_pid=$!
}

writer_stop() {
    [ -n "$writer_pid" ] || return 0
    kill "$writer_pid" 2>/dev/null || true
    wait "$writer_pid" 2>/dev/null || true
    writer_pid=
}

# The last acknowledged commit; they are numbered without gaps.
acknowledged() { tail -n 1 "$acks" 2>/dev/null | grep . || echo 0; }

# Waits until the writer is this many commits further: for work to go on under load, not for time to pass.
writer_advance() {
    local goal=$(($(acknowledged) + $1)) line
    while read -r line; do
        [ "$line" -lt "$goal" ] || break
    done < <(exec tail -n 1 -f -s 0.05 --pid="$writer_pid" "$acks" 2>/dev/null)
    [ "$(acknowledged)" -ge "$goal" ] || fail "the writer ended: $(tail -n 3 "$work/log/writer")"
}

# check_commits LEAST MOST: the table holds 1...n without a gap, LEAST <= n <= MOST.
check_commits() {
    local found
    found=$(sql "SELECT count(*) || ' ' || coalesce(min(n), 1) || ' ' || coalesce(max(n), 0)
        || ' ' || count(*) FILTER (WHERE length(payload) <> 2048) FROM commits")
    read -r count first last damaged <<< "$found"
    [ "$first" = 1 ] && [ "$count" = "$last" ] || fail "commits are missing: $count rows from $first to $last"
    [ "$damaged" = 0 ] || fail "$damaged rows are damaged"
    [ "$last" -ge "$1" ] || fail "$(($1 - last)) acknowledged commits are missing (up to $1, found up to $last)"
    [ "$last" -le "$2" ] || fail "there are commits up to $last, but at most $2 were made"
    sql "SELECT count(*) FROM pgbench_accounts" | grep -qx "$accounts" || fail "rows of pgbench_accounts are missing"
}
