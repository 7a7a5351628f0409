"""RDMA without an adapter: the rdma transport over Soft-RoCE in a small virtual machine.

`python -m tools.rdma_vm` boots a stock Debian kernel in qemu with this very file tree (read-only, changes go to
memory), gives it a software RDMA device, and runs the simulator/real comparison in it with ``transport = rdma``. It
needs Linux on x86-64 and, the first time, a Debian package archive that apt can reach. See docs/rdma.md.

Modules: `packages` fetches, `initramfs` packs what the kernel starts, `machine` boots and waits, `verdict` judges;
`guest` is what runs inside, started by init.sh.
"""
