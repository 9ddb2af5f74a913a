#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A private sshd, to be sourced: start_sshd FOLDER [NAME=VALUE...], stop_sshd. It listens on SSHD_ADDRESS, by default the
# loopback.
#
# FOLDER (created when missing) gets keys, configuration and log. NAME=VALUE are variables of the commands that the far
# side runs. Afterwards SSHD_PORT, SSHD_PID and SSHD_CLIENT_CONFIG (for GODWIT_SSH_CONFIG and ssh -F) are set, and the
# server is also known as the host "far".

SSHD_PID=

start_sshd() {
    _folder=$1
    shift
    mkdir -p "$_folder" || return 1
    # Made by the system at boot where sshd is a service.
    if [ "$(id -u)" = 0 ]; then mkdir -p -m 0755 /run/sshd || return 1; fi
    for _key in host_key client_key; do
        [ -f "$_folder/$_key" ] || ssh-keygen -q -t ed25519 -N '' -C "$_key" -f "$_folder/$_key" || return 1
    done
    _address=${SSHD_ADDRESS:-127.0.0.1}
    cp "$_folder/client_key.pub" "$_folder/authorized_keys"
    # Not the start-up files of the user: a login that is killed in them may leave a lock that all later ones wait for.
    _variables=" \"HOME=$_folder\""
    for _variable in "$@"; do _variables="$_variables \"$_variable\""; done
    # A port that is taken shows as an sshd that does not start: then the next one.
    _try=0
    while [ "$_try" -lt 20 ]; do
        _try=$((_try + 1))
        SSHD_PORT=$((20000 + ($(od -An -N2 -tu2 /dev/urandom) % 12000)))
        {
            echo "Port $SSHD_PORT"
            echo "ListenAddress $_address"
            echo "HostKey $_folder/host_key"
            echo "PidFile none"
            echo "AuthorizedKeysFile $_folder/authorized_keys"
            echo "StrictModes no"
            echo "UsePAM no"
            echo "PasswordAuthentication no"
            echo "KbdInteractiveAuthentication no"
            echo "PermitRootLogin prohibit-password"
            [ -z "$_variables" ] || echo "SetEnv$_variables"
        } > "$_folder/sshd_config"
        rm -f "$_folder/log.pipe"
        mkfifo "$_folder/log.pipe" || return 1
        /usr/sbin/sshd -D -e -f "$_folder/sshd_config" 2> "$_folder/log.pipe" &
        SSHD_PID=$!
        # sshd tells when it listens; an early end of the pipe is its failure. The rest of its log is kept.
        exec 9< "$_folder/log.pipe"
        _ready=
        while IFS= read -r _line <&9; do
            printf '%s\n' "$_line" >> "$_folder/sshd.log"
            case $_line in *"Server listening"*) _ready=1; break ;; esac
        done
        if [ -n "$_ready" ]; then
            cat <&9 >> "$_folder/sshd.log" &
            exec 9<&-
            break
        fi
        exec 9<&-
        wait "$SSHD_PID" 2> /dev/null
        SSHD_PID=
    done
    rm -f "$_folder/log.pipe"
    if [ -z "$SSHD_PID" ]; then
        echo "sshd did not start; its log is $_folder/sshd.log" >&2
        return 1
    fi
    printf '[%s]:%s %s\n' "$_address" "$SSHD_PORT" "$(cat "$_folder/host_key.pub")" > "$_folder/known_hosts"
    SSHD_CLIENT_CONFIG=$_folder/ssh_config
    cat > "$SSHD_CLIENT_CONFIG" << END
Host *
  IdentityFile $_folder/client_key
  IdentitiesOnly yes
  UserKnownHostsFile $_folder/known_hosts
  GlobalKnownHostsFile /dev/null
Host far
  HostName $_address
  Port $SSHD_PORT
  User $(id -un)
END
}

# Ends the server and its connections; harmless when there is none.
stop_sshd() {
    [ -n "$SSHD_PID" ] || return 0
    for _child in $(ps -o pid= --ppid "$SSHD_PID"); do kill "$_child" 2> /dev/null; done
    kill "$SSHD_PID" 2> /dev/null
    wait "$SSHD_PID" 2> /dev/null
    SSHD_PID=
}
