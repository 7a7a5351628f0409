#!/bin/busybox sh
# The first process of the virtual machine: makes a root of the host's file tree with changes in memory, a Soft-RoCE
# device on a dummy network device, runs the job in that root, and turns the machine off. $-variables in capitals come
# from /settings. The host knows success by the result file alone, so every error here may simply end the machine.

bb=/bin/busybox

say() {
    echo "guest: $*"
}

off() {
    $bb sync
    $bb poweroff -f
    # The power may take a moment to go.
    while :; do $bb sleep 1; done
}

must() {
    "$@" && return
    say "failed: $*"
    off
}

# A folder that the host's tree already has must not be made again: over 9p that would be one more request.
folder() {
    [ -d "$1" ] || must $bb mkdir -p "$1"
}

. /settings

must $bb mkdir -p /proc /sys /dev /host /changes /system
must $bb mount -t proc proc /proc
must $bb mount -t sysfs sysfs /sys
must $bb mount -t devtmpfs dev /dev
$bb dmesg -n 4

while read -r module; do
    must $bb insmod "/modules/$module.ko"
done < /modules/order
say "modules loaded $($bb cut -d' ' -f1 /proc/uptime) s after the start of $($bb uname -r)"

# Nothing changes the tree while we run, so the guest may cache it without asking back.
must $bb mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host
must $bb mount -t tmpfs -o size=50% tmpfs /changes
must $bb mkdir /changes/upper /changes/work
must $bb mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work overlay /system
for name in proc sys dev; do
    folder /system/$name
    must $bb mount --bind /$name /system/$name
done
# Not over /tmp or /run: the tree, the interpreter or the cache may lie there.
folder /system/dev/shm
must $bb mount -t tmpfs tmpfs /system/dev/shm
must $bb mkdir -p /system/bufferlab-results
must $bb mount -t 9p -o trans=virtio,version=9p2000.L,rw,cache=none,msize=512000 results /system/bufferlab-results

# The user-space driver is found at a path that is compiled into the verbs library.
if [ -n "$VERBS" ]; then
    folder /system/etc/libibverbs.d
    folder /system/usr/lib/x86_64-linux-gnu/libibverbs
    must $bb cp "/system$VERBS/etc/libibverbs.d/rxe.driver" /system/etc/libibverbs.d/
    must $bb cp -a "/system$VERBS/usr/lib/x86_64-linux-gnu/libibverbs/." /system/usr/lib/x86_64-linux-gnu/libibverbs/
fi

must $bb ip link set lo up
# An RDMA packet of 4096 bytes and its headers fit into one frame.
must $bb ip link set dummy0 mtu 4500
must $bb ip link set dummy0 up
must $bb ip addr add 10.77.0.1/24 dev dummy0
must $bb chroot /system /usr/bin/env LD_LIBRARY_PATH="$LIBRARIES" "$RDMA" link add "$DEVICE" type rxe netdev dummy0
say "device $DEVICE made $($bb cut -d' ' -f1 /proc/uptime) s after the start"

# RDMA pins the memory that it reads and writes.
ulimit -l unlimited
cd /
$bb env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/dev/shm TMPDIR=/dev/shm LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 MC_WORKERS_PER_CTX=1 MPLCONFIGDIR=/dev/shm RDMA_VM_STARTED_S="$($bb cut -d' ' -f1 /proc/uptime)" \
    $bb timeout -k 5 "$LIMIT_S" $bb chroot /system /bin/sh -c 'cd "$1" && shift && exec "$@"' job \
    "$TREE" "$PYTHON" -m tools.rdma_vm.guest --results /bufferlab-results --device "$DEVICE" --tests "$TESTS" </dev/null
say "the job ended with status $? $($bb cut -d' ' -f1 /proc/uptime) s after the start"
off
