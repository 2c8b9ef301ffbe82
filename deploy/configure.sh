#!/bin/sh
# Makes what is missing of the agent's user, configuration and master key. It changes nothing that is there.
set -eu
umask 022

config=/etc/edge-agent/agent.toml
key=/etc/credstore/edge-agent-master-key

if ! getent passwd edge-agent >/dev/null; then
  systemd-sysusers /usr/lib/sysusers.d/edge-agent.conf
fi
# There before the first start, so that a release can be installed.
install -d -o edge-agent -g edge-agent -m 0700 /var/lib/edge-agent
if [ ! -e "$config" ]; then
  mkdir -p "$(dirname "$config")"
  # A gateway's name is part of its topics and has no other characters than these.
  name=$(uname -n | tr -c 'A-Za-z0-9._\n-' '-' | cut -c1-64)
  sed "s/^name = .*#/name = \"$name\"  #/" /opt/edge-agent/agent.example.toml >"$config.new"
  mv "$config.new" "$config"
fi
if [ ! -e "$key" ] && [ -n "$(ls -A /var/lib/edge-agent/keys 2>/dev/null)" ] && [ ! -e /var/lib/edge-agent/master.key ]; then
  echo "configure: $key is missing, and what lies in /var/lib/edge-agent was sealed with it: bring it back from your copy" >&2
elif [ ! -e "$key" ]; then
  install -d -m 0700 "$(dirname "$key")"
  (umask 077 && od -An -N32 -tx1 -v /dev/urandom | tr -d ' \n' >"$key.new" && sync "$key.new")
  mv "$key.new" "$key"
  sync "$(dirname "$key")"
fi
