#!/bin/bash
# node.sh DIRECTORY NAME ADDRESSES: the first process of a node, in namespaces of its own (network, mount, PID, UTS).
# A node has a root file system of its own too, laid over the machine's: whatever pods with host paths write to /etc/cni, /opt/cni/bin,
# /run or anywhere else stays in the node and is gone with it. Everything lies where a distribution would have it.
set -euo pipefail
node=$1 name=$2 addresses=$3
root=$node/root

mount --make-rprivate /
# The upper layer may not lie below the lower one, which is the whole machine: so it is in memory.
mkdir -p "$root" "$node"/{upper,containerd,kubelet,log}
mount -t tmpfs -o mode=755 tmpfs "$node/upper"
mkdir "$node"/upper/{files,work}
mount -t overlay overlay -o "lowerdir=/,upperdir=$node/upper/files,workdir=$node/upper/work" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys" # of this network namespace: /sys/class/net has its links
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
for pair in containerd:/var/lib/containerd kubelet:/var/lib/kubelet log:/var/log/node; do
    mkdir -p "$root${pair#*:}"
    mount --bind "$node/${pair%%:*}" "$root${pair#*:}"
done
# Folders that are written to from both sides, or lie on other file systems than the machine's root.
while read -r folder; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done <"$node/binds"
mkdir -p "$root"/{etc/cni/net.d,opt/cni/bin,etc/containerd,.machine}
cp "$node/cni.conflist" "$root/etc/cni/net.d/10-bridge.conflist"

cd "$root"
pivot_root . .machine
umount -l /.machine
rmdir /.machine
mount --make-rshared /
hostname "$name"

log=/var/log/node
containerd --config "$node/containerd.toml" >>"$log/containerd.log" 2>&1 &
for _ in {1..300}; do [ -S /run/containerd/containerd.sock ] && break; sleep 0.05; done
for image in "$node"/../images/*.tar; do ctr -n k8s.io images import "$image" >>"$log/images.log" 2>&1; done
kubelet --config "$node/kubelet.yaml" --kubeconfig "$node/kubelet.kubeconfig" --cert-dir /var/lib/kubelet/pki \
    --hostname-override "$name" --node-ip "$addresses" >>"$log/kubelet.log" 2>&1 &
kube-proxy --kubeconfig "$node/kube-proxy.kubeconfig" --hostname-override "$name" --proxy-mode nftables \
    --conntrack-max-per-core 0 >>"$log/kube-proxy.log" 2>&1 &
# A node one of whose daemons has died is no node: its end ends everything in its namespaces.
wait -n
echo "a daemon of $name ended" >&2
exit 1
