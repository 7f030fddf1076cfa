#!/usr/bin/env bash
# Boots systemd on a throw-away copy of this machine's files; run by test_boot.py in mount and process namespaces of its own.
# $1: scratch directory; $2: directory for what was found out, with the wheel; $3: base of this Python; $4: its packages;
# $5: program for the container.
set -euo pipefail
scratch=$1 found=$2 python=$3 packages=$4 program=$5

mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch"/{upper,work,machine}
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/machine"
root=$scratch/machine

# No unit of this machine's owner, and nothing of an earlier installation.
rm -rf "$root"/etc/systemd/system "$root"/etc/legion-iot "$root"/opt "$root"/var/lib/legion-* "$root"/var/lib/private/legion-*
mkdir -p "$root"/etc/systemd/system/multi-user.target.wants "$root"/opt/{python,dependencies} "$root/found"
: > "$root/etc/machine-id"
mount --bind "$python" "$root/opt/python"
mount --bind "$packages" "$root/opt/dependencies"
mount --bind "$found" "$root/found"

# What `python3 -m venv /opt/legion-iot && pip install` makes, with packages that are there already.
version=$(basename "$(dirname "$packages")")
mkdir -p "$root/opt/legion-iot/bin" "$root/opt/legion-iot/lib/$version/site-packages"
echo "home = /opt/python/bin" > "$root/opt/legion-iot/pyvenv.cfg"
ln -s "/opt/python/bin/$version" "$root/opt/legion-iot/bin/python3"
echo /opt/dependencies > "$root/opt/legion-iot/lib/$version/site-packages/dependencies.pth"
echo /opt/python/lib > "$root/etc/ld.so.conf.d/python-of-the-test.conf"
chroot "$root" ldconfig
chroot "$root" /opt/legion-iot/bin/python3 -m pip install --quiet --no-deps --no-index --ignore-installed \
    --root-user-action=ignore --disable-pip-version-check "/found/$(basename "$found"/*.whl)"

cp "$program" "$root/opt/program.py"
cat > "$root/etc/systemd/system/legion-boot-test.service" <<'UNIT'
[Service]
Type=exec
ExecStart=/opt/legion-iot/bin/python3 /opt/program.py
UNIT
ln -s ../legion-boot-test.service "$root/etc/systemd/system/multi-user.target.wants/"

# Its console wants a terminal. A machine that starts again ends this program, too.
boot() {
    script --quiet --append --command \
        "systemd-nspawn --quiet --directory=$root --register=no --keep-unit --private-network --boot" "$found/console" \
        < /dev/null > /dev/null || true
}
boot
if [ -e "$found/rebooting" ]; then boot; fi
