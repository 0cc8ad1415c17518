package main

// recipe says how one package comes from Debian's.
type recipe struct {
	name string // Alpine's name for it
	debs []string

	// take lists path prefixes of the files that go in; none takes all but
	// documentation. move gives files another prefix, first match wins.
	take []string
	drop []string
	move [][2]string
	// links are symbolic links to add, name to target.
	links map[string]string

	description string
	depends     string
	provides    string
	installIf   string // %v stands for the version of the package named by origin
	origin      string

	// alone leaves out the libraries that its Debian packages need.
	alone bool

	// shape changes the files as a whole, where prefixes are not enough.
	shape func(*build) error
}

// The paths that other packages, scripts and OpenRC's own binaries expect of
// what Debian moved below /usr.
var recipes = []recipe{
	{name: "alpine-baselayout", description: "Directories and basic files of the root",
		links: map[string]string{
			"etc/mtab": "../proc/mounts", "var/run": "../run", "var/lock": "../run/lock", "etc/resolv.conf": "../run/resolv.conf",
			"dev/fd": "/proc/self/fd",
		}, shape: baseDirectories},
	{name: "alpine-base", depends: "alpine-baselayout busybox openrc", description: "The least a root needs"},
	{name: "alpine-keys", description: "No keys: this repository is signed by its own"},

	{name: "libc6", debs: []string{"libc6"}, description: "GNU C library",
		take:  []string{"usr/lib/aarch64-linux-gnu/", "usr/lib/ld-linux"},
		drop:  []string{"usr/lib/aarch64-linux-gnu/gconv"},
		links: map[string]string{"lib/ld-linux-aarch64.so.1": "/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"}},

	{name: "busybox", debs: []string{"busybox-static"}, description: "Many small tools in one program",
		take: []string{"usr/bin/busybox"}, move: [][2]string{{"usr/bin/", "bin/"}},
		links: map[string]string{"bin/sh": "/bin/busybox",
			"etc/udhcpc/default.script": "/usr/share/udhcpc/default.script"}, // where Debian's udhcpc looks, and where Alpine's does
		provides: "/bin/sh cmd:busybox=1 cmd:sh=1", shape: busyboxPaths},
	{name: "busybox-openrc", origin: "busybox", installIf: "openrc busybox=%v", description: "Service scripts of busybox"},
	{name: "busybox-mdev-openrc", origin: "busybox", installIf: "openrc busybox=%v", description: "Service script of mdev"},

	{name: "openrc", debs: []string{"openrc"}, description: "Starts and stops services in order",
		take: []string{"usr/", "etc/init.d/cgroups", "etc/init.d/savecache", "etc/rc.conf"},
		links: map[string]string{
			"sbin/openrc": "/usr/sbin/openrc", "sbin/openrc-run": "/usr/sbin/openrc-run", "sbin/rc": "openrc",
			"sbin/rc-service": "/usr/sbin/rc-service", "sbin/rc-update": "/usr/sbin/rc-update",
			"bin/rc-status": "/usr/bin/rc-status", "sbin/start-stop-daemon": "/usr/lib/rc/sbin/start-stop-daemon",
			"sbin/supervise-daemon": "/usr/sbin/supervise-daemon", "lib/rc": "../usr/lib/rc",
		}, shape: runlevels},

	{name: "linux-rpi", debs: []string{"linux-image-arm64"}, description: "Debian's arm64 kernel, with the modules a node needs",
		depends: "initramfs-generator", shape: kernel},
	{name: "raspberrypi-bootloader", debs: []string{"raspi-firmware"}, description: "GPU firmware of the Pi",
		take: []string{"usr/lib/raspi-firmware/start.elf", "usr/lib/raspi-firmware/fixup.dat",
			"usr/lib/raspi-firmware/start4.elf", "usr/lib/raspi-firmware/fixup4.dat"},
		move: [][2]string{{"usr/lib/raspi-firmware/", "boot/"}}, depends: "raspberrypi-bootloader-common"},
	{name: "raspberrypi-bootloader-common", debs: []string{"raspi-firmware"}, description: "First stage of BCM2837 boards",
		take: []string{"usr/lib/raspi-firmware/bootcode.bin"},
		move: [][2]string{{"usr/lib/raspi-firmware/", "boot/"}}, shape: bootcodeKnowsTryboot},
	{name: "linux-firmware-brcm", debs: []string{"raspi-firmware"}, description: "Wi-Fi firmware of the Pi, as far as Debian ships it here",
		take: []string{"usr/lib/firmware/"}, move: [][2]string{{"usr/lib/firmware/", "lib/firmware/"}}},

	{name: "e2fsprogs", debs: []string{"e2fsprogs"}, description: "Make, check and grow ext4",
		take: []string{"usr/sbin/", "etc/"}, move: [][2]string{{"usr/sbin/", "sbin/"}}},
	{name: "e2fsprogs-extra", depends: "e2fsprogs", description: "Nothing: Debian's e2fsprogs has it all"},
	{name: "cryptsetup", debs: []string{"cryptsetup-bin"}, description: "Makes and opens encrypted disks",
		take: []string{"usr/sbin/cryptsetup"}, move: [][2]string{{"usr/sbin/", "sbin/"}}},
	{name: "dropbear", debs: []string{"dropbear-bin"}, description: "Small SSH server",
		take: []string{"usr/sbin/", "usr/bin/"}},
	{name: "dropbear-openrc", origin: "dropbear", installIf: "openrc dropbear=%v", description: "Service script of dropbear"},
	{name: "doas", debs: []string{"libpam-modules", "opendoas"}, description: "Lets users run chosen commands as root",
		take: []string{"usr/bin/doas", "usr/lib/aarch64-linux-gnu/security/pam_permit.so"}},
	{name: "tzdata", debs: []string{"tzdata"}, description: "Time zones", take: []string{"usr/share/zoneinfo/"}},
	{name: "blkid", debs: []string{"util-linux"}, description: "Says what is on a disk", take: []string{"usr/sbin/blkid"},
		move: [][2]string{{"usr/sbin/", "sbin/"}}},
	{name: "lsblk", debs: []string{"util-linux"}, description: "Lists disks", take: []string{"usr/bin/lsblk"},
		move: [][2]string{{"usr/bin/", "bin/"}}},
	{name: "findmnt", debs: []string{"util-linux"}, description: "Finds mounts", take: []string{"usr/bin/findmnt"},
		move: [][2]string{{"usr/bin/", "bin/"}}},
	{name: "wpa_supplicant", debs: []string{"wpasupplicant"}, description: "Joins wireless networks",
		take: []string{"usr/sbin/"}, move: [][2]string{{"usr/sbin/", "sbin/"}}},
	{name: "wpa_supplicant-openrc", origin: "wpa_supplicant", installIf: "openrc wpa_supplicant=%v",
		description: "Service script of wpa_supplicant"},
	{name: "wireless-regdb", debs: []string{"wireless-regdb"}, description: "Which radio channels may be used where",
		take: []string{"usr/lib/firmware/"}, move: [][2]string{{"usr/lib/firmware/", "lib/firmware/"}}},
	{name: "open-iscsi", debs: []string{"open-iscsi"}, description: "iSCSI initiator",
		take: []string{"usr/sbin/", "etc/iscsi/iscsid.conf"}, move: [][2]string{{"usr/sbin/", "sbin/"}}},
	{name: "open-iscsi-openrc", origin: "open-iscsi", installIf: "openrc open-iscsi=%v", description: "Service script of iscsid"},
	{name: "chrony", debs: []string{"chrony"}, description: "NTP client", take: []string{"usr/sbin/", "usr/bin/"}},
	{name: "chrony-openrc", origin: "chrony", installIf: "openrc chrony=%v", description: "Service script of chronyd"},
	{name: "iptables", debs: []string{"iptables"}, description: "Packet filter, nftables variant", shape: iptablesNft,
		take: []string{"usr/sbin/", "usr/lib/"}},
	{name: "nftables", debs: []string{"nftables"}, description: "Packet filter", take: []string{"usr/sbin/"}},
	{name: "ca-certificates-bundle", debs: []string{"ca-certificates"}, description: "Certificates of public authorities",
		take: []string{"usr/share/ca-certificates/"}, links: map[string]string{"etc/ssl/cert.pem": "certs/ca-certificates.crt"},
		shape: certificateBundle},
	{name: "containerd", debs: []string{"containerd"}, description: "Container runtime", depends: "runc",
		take: []string{"usr/bin/"}},
	{name: "containerd-openrc", origin: "containerd", installIf: "openrc containerd=%v", description: "Service script of containerd"},
	{name: "runc", debs: []string{"runc"}, description: "Runs containers", take: []string{"usr/"},
		drop: []string{"usr/share/"}},
}

// kernelModules are what the starter's kernel keeps, each with what it needs:
// Debian's 4000 modules would make every image 100 MiB larger.
const kernelModules = `
virtio_blk virtio_net virtio_console virtio_rng virtio_scsi virtio_mmio qemu_fw_cfg i6300esb
sdhci_pci sdhci_iproc bcm2835 bcm2835_wdt mmc_block usb_storage uas xhci_pci xhci_plat_hcd nvme
dwc2 phy_generic usbnet cdc_ether cdc_ncm smsc95xx lan78xx r8152 ax88179_178a
genet macb mdio_bcm_unimac broadcom realtek microchip
bcm2835_rng iproc_rng200 raspberrypi_cpufreq raspberrypi_hwmon bcm2711_thermal bcm2835_thermal
brcmfmac brcmfmac_wcc reset_raspberrypi clk_raspberrypi i2c_bcm2835 i2c_dev spi_bcm2835 gpio_fan pwm_fan
dm_mod dm_verity dm_crypt dm_multipath dm_round_robin dm_service_time loop squashfs overlay ext4 vfat nls_cp437 nls_ascii
nls_utf8 nls_iso8859_1 xfs fuse zram nbd
iscsi_tcp sd_mod scsi_transport_iscsi nfsv4 nfs
br_netfilter bridge 8021q vxlan veth macvlan ipvlan dummy tun wireguard ip6_udp_tunnel
nf_conntrack nf_nat nf_tables nft_compat nft_chain_nat nft_ct nft_nat nft_masq nft_redir nft_reject_inet nft_limit nft_log
nft_fib_inet nft_numgen nft_objref nft_quota
ip_tables iptable_filter iptable_nat iptable_mangle iptable_raw ip6_tables ip6table_filter ip6table_nat ip6table_mangle ip6table_raw
xt_conntrack xt_comment xt_mark xt_connmark xt_MASQUERADE xt_addrtype xt_multiport xt_statistic xt_nat xt_REDIRECT xt_tcpudp
xt_set xt_limit xt_physdev xt_recent xt_CT xt_LOG xt_NFLOG xt_TPROXY xt_TCPMSS xt_u32 xt_hashlimit xt_owner xt_state
ipt_REJECT ip6t_REJECT nf_reject_ipv4 nf_log_syslog
ip_set ip_set_hash_ip ip_set_hash_net ip_set_hash_ipport ip_set_hash_ipportip ip_set_hash_ipportnet ip_set_bitmap_port
ip_vs ip_vs_rr ip_vs_wrr ip_vs_sh nf_conntrack_netlink sch_fq sch_fq_codel sch_htb sch_ingress sch_tbf cls_bpf cls_u32 act_mirred act_bpf
crc32c_generic libcrc32c gcm ccm ctr cmac sha256_generic aes_arm64 aes_ce_blk aes_neon_bs xts
adiantum nhpoly1305_neon chacha_generic chacha_neon algif_skcipher
`

// bulkRecipes make a repository that weighs what a node of k3s does: large Go
// programs, thousands of small files, and an archive of container images for
// starting without a registry, which is compressed already. It is for
// measuring.
var bulkRecipes = []recipe{
	{name: "docker", debs: []string{"docker.io"}, take: []string{"usr/"}, description: "Large Go programs"},
	{name: "prometheus", debs: []string{"prometheus"}, take: []string{"usr/"}, description: "Large Go programs"},
	{name: "podman", debs: []string{"podman"}, take: []string{"usr/"}, description: "A large Go program"},
	{name: "git", debs: []string{"git"}, take: []string{"usr/"}, description: "Many programs"},
	{name: "vim-runtime", debs: []string{"vim-runtime"}, take: []string{"usr/"}, description: "Thousands of small files"},
	{name: "perl-modules", debs: []string{"perl-modules-5.40"}, take: []string{"usr/"}, description: "Thousands of small files"},
	{name: "python3", debs: []string{"libpython3.13-stdlib"}, take: []string{"usr/"}, description: "Thousands of small files"},
	{name: "airgap-images", debs: []string{"buildah", "etcd-server", "postgresql-17", "libllvm19", "openjdk-21-jre-headless"},
		take: []string{"usr/"}, alone: true, shape: airgapArchive, description: "What images hold, in one compressed archive"},
}
