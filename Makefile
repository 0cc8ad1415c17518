# Everything a person does here is one of these targets; make help lists them.
# Set-up steps say what they install, and skip what is there.

SHELL := /bin/bash
GO    ?= go
BUILD := build
# Debian packages: what make itself needs, and what only tests do.
RUN_PACKAGES  := qemu-system-arm
TEST_PACKAGES := $(RUN_PACKAGES) mtools dosfstools squashfs-tools cryptsetup-bin fdisk zstd cpio device-tree-compiler openssl kmod bmap-tools openssh-client qemu-user-static strace gcc libc6-dev tgt e2fsprogs iproute2 dnsmasq-base tftp-hpa curl udhcpc chromium-headless-shell
# Servers that bench measures beside ours.
BENCH_PACKAGES := nginx-light atftpd bsdiff casync

# One set of flags, so that the go command compiles each package once for all
# that is built and tested here; -race alone needs cgo, and compiles anew.
export CGO_ENABLED := 0
export GOFLAGS := $(GOFLAGS) -trimpath -buildvcs=false

# Device programs are small, static and the same on every machine.
DEVICE_FLAGS := -trimpath -buildvcs=false -ldflags='-s -w'
# What the command calls itself: a tag, or the commit it was built from.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMAND_FLAGS = -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)'
SOURCES := $(shell find . -name '*.go' -not -path './build/*') go.mod go.sum
ASSETS  := $(shell find overlays cmd/starter/files -type f)

.PHONY: help check lint large pairs build device tools starter demo test test-all rig test-cluster test-k3s bench fuzz proof soak test-clients oracle oracle-adb eeprom generate dist needed setup-run setup-test setup-bench setup-clients

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# These are large, and in few images: the controller of rollouts, and backups.
OTHERS := pikelet-rollout pikelet-backup

build: $(BUILD)/pikelet ## build the pikelet command, device programs inside

device: builder/deviceprogs/pikelet-init builder/deviceprogs/pikeletd $(OTHERS:%=builder/deviceprogs/%.gz) ## build the programs that run on nodes

builder/deviceprogs/pikelet-init builder/deviceprogs/pikeletd: builder/deviceprogs/%: $(SOURCES)
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build $(DEVICE_FLAGS) -o $@ ./cmd/$*

$(OTHERS:%=builder/deviceprogs/%.gz): builder/deviceprogs/%.gz: $(SOURCES)
	@mkdir -p $(BUILD)
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build $(DEVICE_FLAGS) -o $(BUILD)/$*-arm64 ./cmd/$*
	gzip -n9 < $(BUILD)/$*-arm64 > $@.tmp && mv $@.tmp $@

$(BUILD)/pikelet: $(SOURCES) $(ASSETS) device
	CGO_ENABLED=0 $(GO) build $(COMMAND_FLAGS) -o $@ ./cmd/pikelet

# Programs of others that tests and bench run beside ours.
$(BUILD)/tools/registry: $(wildcard internal/tools/registry/*) ; cd internal/tools/registry && $(GO) build -o $(abspath $@) .
$(BUILD)/tools/s3: $(wildcard internal/tools/s3/*) ; cd internal/tools/s3 && $(GO) build -o $(abspath $@) .
$(BUILD)/tools/crane: ; CGO_ENABLED=0 GOBIN=$(abspath $(@D)) $(GO) install github.com/google/go-containerregistry/cmd/crane@v0.22.1

tools: $(BUILD)/tools/registry $(BUILD)/tools/crane ## build the registry and the client that tests and bench use

starter: $(BUILD)/starter-bin ## make the starter repository from Debian's packages
	$(BUILD)/starter-bin -o $(BUILD)/starter

$(BUILD)/starter-bin: $(SOURCES) $(ASSETS)
	$(GO) build -trimpath -buildvcs=false -o $@ ./cmd/starter

demo: setup-run build starter ## build an image and boot it in a virtual Pi
	$(BUILD)/pikelet build -o $(BUILD)/demo examples/demo.yaml
	$(BUILD)/pikelet vm run --snapshot $(BUILD)/demo/disk.img

# The go command knows which compiled tools are of which version.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
$(BUILD)/tools/staticcheck: Makefile ; GOBIN=$(abspath $(@D)) $(GO) install $(STATICCHECK)
# golangci-lint takes minutes to compile, so make check does without
# (docs/decisions/0013-lint.md).
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
$(BUILD)/tools/golangci-lint: Makefile ; GOBIN=$(abspath $(@D)) $(GO) install $(GOLANGCI)
$(BUILD)/tools/testlog: $(wildcard internal/tools/testlog/*.go) go.mod ; $(GO) build -o $@ ./internal/tools/testlog

# A test's own limits catch hangs; this one catches the rest.
GOTEST  = $(GO) test -json -vet=off -count=1 -timeout 60m -exec '$(abspath $(BUILD)/tools/testlog) exec'
TESTLOG = $(BUILD)/tools/testlog

check: device $(BUILD)/tools/staticcheck ## vet, staticcheck and the tests that need only Go, as any user
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(BUILD)/tools/staticcheck ./...
	$(GO) test -short -vet=off -timeout 30m ./...

lint: $(BUILD)/tools/golangci-lint ## run the linters of .golangci.yml
	$(BUILD)/tools/golangci-lint run

# Virtual Pis at the same time: two keep two cores busy, and of three one
# usually waits, for a NAS that is away or for a filesystem of another boot.
VMS := 3
# Boot tests take longest, so they begin first, beside all others.
PACKAGES := ./internal/testing/e2e ./internal/host/cli ./...
# What is written for several cores: make test has the race detector watch
# these, and make test-all more; each is compiled once more for it.
RACED     := ./internal/host/bootserver/... ./internal/shared/squashfs ./builder/cache ./internal/shared/medium ./internal/host/flash ./layers/store
ALL_RACED := $(RACED) ./builder/... ./layers/... ./internal/shared/slots ./internal/shared/disk/... ./internal/shared/verity ./internal/shared/image/...

needed: setup-test build starter $(BUILD)/tools/registry $(BUILD)/tools/s3 $(BUILD)/tools/testlog

test: needed ## run all tests, boot tests included
	$(GO) vet ./...
	set -o pipefail; { $(GOTEST) -parallel $(VMS) $(PACKAGES) && CGO_ENABLED=1 $(GOTEST) -race -short $(RACED); } | $(TESTLOG)

# Each of these does more of what a test of make test does as well.
test-all: needed $(BUILD)/tools/staticcheck ## run all tests at full size, with the race detector watching more
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory dist DIST=$(BUILD)/seed PLATFORMS=linux/arm64
	set -o pipefail; { $(GOTEST) -tags full -parallel $(VMS) $(PACKAGES) && \
	  $(GOTEST) -run 'TestProof|TestSoak' ./internal/device/updater -states 10000 -upgrades 200 && \
	  CGO_ENABLED=1 $(GOTEST) -race $(ALL_RACED) && \
	  CGO_ENABLED=1 $(GOTEST) -race -run TestFetchesOverlap ./internal/host/cli; } | $(TESTLOG)
	@$(MAKE) --no-print-directory test-cluster CLUSTER_TESTS=TestCluster

# A real Kubernetes, of Go modules: the control plane for this computer, and
# what nodes run for arm64. Not quite an hour of CPU, once.
RIG := $(BUILD)/rig
RIG_SOURCES := internal/testing/rig/programs
RIG_FILES := $(wildcard $(RIG_SOURCES)/go.* $(RIG_SOURCES)/*/*.go)
KUBERNETES := $(shell sed -n 's,^require k8s.io/kubernetes \(v[0-9.]*\)$$,\1,p' $(RIG_SOURCES)/go.mod)
RIG_VERSION := $(foreach p,k8s.io/component-base/version k8s.io/client-go/pkg/version,-X $(p).gitVersion=$(KUBERNETES)) \
  -X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBERNETES:v%=%))) \
  -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES:v%=%)))
RIG_BUILD = $(GO) build -trimpath -buildvcs=false
PLUGINS := main/bridge main/loopback ipam/host-local meta/portmap

$(RIG)/host/control: $(RIG_FILES) ; cd $(RIG_SOURCES) && $(RIG_BUILD) -ldflags='-s -w $(RIG_VERSION)' -o $(abspath $@) ./control
$(RIG)/arm64/node $(RIG)/arm64/coredns: $(RIG)/arm64/%: $(RIG_FILES)
	cd $(RIG_SOURCES) && GOOS=linux GOARCH=arm64 $(RIG_BUILD) -ldflags='-s -w $(RIG_VERSION)' -o $(abspath $@) ./$*
$(RIG)/arm64/bridge: $(RIG_FILES)
	cd $(RIG_SOURCES) && GOOS=linux GOARCH=arm64 $(RIG_BUILD) -ldflags='-s -w' -o $(abspath $(@D))/ $(PLUGINS:%=github.com/containernetworking/plugins/plugins/%)
$(RIG)/arm64/crictl: $(RIG_FILES)
	cd $(RIG_SOURCES) && GOOS=linux GOARCH=arm64 $(RIG_BUILD) -ldflags='-s -w' -o $(abspath $@) sigs.k8s.io/cri-tools/cmd/crictl
$(RIG)/arm64/k3slite $(RIG)/arm64/app: $(RIG)/arm64/%: $(SOURCES)
	GOOS=linux GOARCH=arm64 $(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(KUBERNETES)' -o $@ ./internal/testing/rig/$*

rig: $(RIG)/host/control $(addprefix $(RIG)/arm64/,node coredns bridge crictl k3slite app) ## build a real Kubernetes to test nodes against, once

$(BUILD)/pikelet-rollout: $(SOURCES)
	CGO_ENABLED=0 $(GO) build $(DEVICE_FLAGS) -o $@ ./cmd/pikelet-rollout

# The others take longer: a control plane on a Pi, netboot.
CLUSTER_TESTS := TestClusterNode$$|TestClusterOfTwo|TestClusterOfFakes|TestClusterRolloutOfFakes|TestClusterUpgradeFromDesk
test-cluster: needed rig $(BUILD)/pikelet-rollout ## run nodes in a real Kubernetes; CLUSTER_TESTS=TestCluster for all
	set -o pipefail; $(GOTEST) -tags cluster -run '$(CLUSTER_TESTS)' ./internal/testing/e2e | $(TESTLOG)

# K3S is a release of k3s itself, the file k3s-arm64: the project has none.
.PHONY: k3s-file
k3s-file:
	@test -f '$(K3S)' || { echo 'test-k3s: no release of k3s: make test-k3s K3S=FILE, the file k3s-arm64 of its releases page' >&2; exit 1; }

test-k3s: k3s-file needed $(addprefix $(RIG)/arm64/,coredns app) ## run nodes with a release of k3s: make test-k3s K3S=FILE
	set -o pipefail; $(GOTEST) -tags cluster -run TestClusterOnNodes ./internal/testing/e2e -k3s $(abspath $(K3S)) | $(TESTLOG)

bench: setup-bench build starter tools ## measure, side by side with the peers, into bench.json; ALPINE=DIR for solve_ms and scripts_done_ratio
	$(BUILD)/starter-bin -bulk -o $(BUILD)/bulk
	$(BUILD)/pikelet build -o $(BUILD)/demo examples/demo.yaml
	$(if $(filter-out %delta,$(or $(ONLY),delta)),,$(MAKE) --no-print-directory large)
	$(GO) build -o $(BUILD)/bench ./internal/tools/bench
	$(BUILD)/bench -o bench.json $(if $(ALPINE),-alpine $(ALPINE)) $(if $(ONLY),-only $(ONLY))

# What patches are measured on: a large program, and some of Debian's packages,
# in two versions each.
large: ## make what patches are measured on: minutes, once
	testdata/large/build.sh 1.34.3 $(BUILD)/large/1.34.3
	testdata/large/build.sh 1.34.4 $(BUILD)/large/1.34.4
	testdata/large/debs.sh $(BUILD)/large/debs libssl3 libc6 containerd

pairs: ## make patches of real releases, in each way: programs of Go's at two versions, Debian's packages at two dates
	testdata/large/debs.sh $(BUILD)/large/debs libssl3 libc6 containerd
	$(GO) test -tags pairs -v -count=1 -timeout 60m -run TestPairs ./internal/shared/image/patch -programs $(abspath $(BUILD)/pairs) -debs $(abspath $(BUILD)/large/debs)
	$(GO) test -tags pairs -v -count=1 -run TestKnownReleases ./internal/shared/delta -programs $(abspath $(BUILD)/pairs)

FUZZTIME ?= 20s
fuzz: device ## run every fuzz target for FUZZTIME
	@set -e; $(GO) list ./... | while read p; do \
	  $(GO) test -list '^Fuzz' $$p | grep '^Fuzz' | while read f; do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p; done; done

proof: setup-test build starter $(BUILD)/tools/registry ## judge 120,000 states that power cuts leave, and those of recorded runs; boot 20 of them; simulate 100,000 clusters
	$(GO) test -count=1 -timeout 60m -v -run 'TestProof|TestMutants|TestKillTable|TestBrokenOff' ./internal/device/updater -states 120000
	$(GO) test -count=1 -timeout 60m -v -run TestSimulation ./internal/testing/rolloutsim -seeds 100000
	$(GO) test -count=1 -timeout 60m -v -run TestRecorded ./internal/testing/e2e -crash-states 15 -boot-states 20

soak: setup-test build starter $(BUILD)/tools/registry ## run long tests: power cuts, killed upgrades, and builds side by side with the race detector watching
	$(GO) test -count=1 -timeout 60m -v -run TestSoak ./internal/device/updater -upgrades 2000
	$(GO) test -count=1 -timeout 180m -v -run TestPowerCutsDuringUpgrade ./internal/testing/e2e -kills 60
	$(GO) test -count=1 -timeout 60m -v -run TestPowerCutsDuringFirstBoot ./internal/testing/e2e -cuts 50
	$(GO) test -count=1 -timeout 60m -v -run TestBootStorm ./internal/testing/e2e -storm 100 -lossy-storm 20
	CGO_ENABLED=1 $(GO) test -tags full -race -count=1 -timeout 60m -run TestBuildsShareACache ./internal/host/cli

test-clients: setup-clients build starter $(BUILD)/tools/registry ## let real clients judge: cosign, crane, regctl, skopeo, syft, Kyverno
	testdata/clients.sh $(abspath $(BUILD)/pikelet) $(abspath $(BUILD)/tools/registry) examples/demo.yaml $(abspath $(BUILD)/clients)

# Renovate wants a newer node than Debian has; npm has that too. What compiles with
# scripts is left out: Renovate does without.
RENOVATE := $(BUILD)/renovate
RENOVATE_NODE := node-linux-$(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x64)
RENOVATE_PACKAGES := renovate@43.288.0 $(RENOVATE_NODE)@24.22.3
$(RENOVATE)/node: Makefile
	@command -v npm > /dev/null || sh internal/tools/install.sh npm
	@mkdir -p $(@D) && echo '{"private": true}' > $(@D)/package.json
	npm install --prefix $(@D) --no-audit --no-fund --omit=optional --ignore-scripts --loglevel=error $(RENOVATE_PACKAGES)
	ln -sfn node_modules/$(RENOVATE_NODE)/bin/node $@ && touch -h $@

.PHONY: test-renovate
test-renovate: $(RENOVATE)/node device ## run Renovate over the example of a repository, with indexes and registries on loopback
	$(GO) test -count=1 -v -timeout 10m -tags renovate -run 'TestRenovate$$' ./internal/host/cli -renovate $(abspath $(RENOVATE))

WORLDS ?= 3000
oracle: build starter ## compare with Alpine's own apk and busybox, as root: make oracle ALPINE=DIR, with its minirootfs archives and index
	$(GO) test -tags oracle -v -count=1 -timeout 10m -run Oracle ./builder/script -alpine $(abspath $(ALPINE))
	$(GO) test -tags oracle -v -count=1 -timeout 60m -run Oracle ./layers/apk -alpine $(abspath $(ALPINE)) -worlds $(WORLDS)
	$(GO) test -tags oracle -v -count=1 -timeout 10m -run Alpine ./internal/testing/e2e -alpine $(abspath $(ALPINE))

oracle-adb: ## compare packages and indexes of format 3 with apk itself, as root: make oracle-adb APK=FILE, apk of apk-tools 3
	$(GO) test -tags oracle -v -count=1 -timeout 20m -run AsApk3 ./layers/apk -apk3 $(abspath $(APK))

eeprom: device ## compare updates of bootloaders with Raspberry Pi's own tool: make eeprom RPI_EEPROM=DIR, a work tree of raspberrypi/rpi-eeprom
	$(GO) test -count=1 -v -tags rpieeprom -run AsRaspberryPi ./internal/host/bootserver/eeprom -rpi-eeprom $(abspath $(RPI_EEPROM))

CONTROLLER_GEN := sigs.k8s.io/controller-tools/cmd/controller-gen@v0.19.0
generate: ## rewrite generated files: schemas, tables of fields, the command's reference, the architecture drawing, the API of rollouts
	$(GO) run $(CONTROLLER_GEN) object paths=./internal/shared/rollout/v1alpha1 output:object:dir=./internal/shared/rollout/v1alpha1 \
	  crd output:crd:dir=./overlays/rollout/manifests
	$(GO) run ./internal/tools/diagram < docs/architecture.txt > docs/architecture.svg
	-$(GO) test ./builder/spec ./internal/shared/nodeconfig ./internal/host/cli -run Fresh -update

DIST := $(BUILD)/dist
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
dist: device ## build the command for every platform, static and reproducible, with checksums
	rm -rf $(DIST) && mkdir -p $(DIST)
	@set -e; for p in $(PLATFORMS); do os=$${p%/*} arch=$${p#*/}; name=pikelet-$(VERSION)-$$os-$$arch; \
	  exe=pikelet; [ $$os != windows ] || exe=pikelet.exe; mkdir -p $(DIST)/$$name; echo "$$p"; \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build $(COMMAND_FLAGS) -o $(DIST)/$$name/$$exe ./cmd/pikelet; \
	  cp README.md LICENSE $(DIST)/$$name/; \
	  tar -C $(DIST) --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s --mtime=@0 -cf - $$name | gzip -n > $(DIST)/$$name.tar.gz; \
	  rm -r $(DIST)/$$name; done
	cd $(DIST) && sha256sum *.tar.gz > SHA256SUMS

setup-run:
	@sh internal/tools/install.sh $(RUN_PACKAGES)

setup-clients: setup-run
	@sh internal/tools/install.sh skopeo

setup-test:
	@sh internal/tools/install.sh $(TEST_PACKAGES)

setup-bench: setup-test
	@sh internal/tools/install.sh $(BENCH_PACKAGES)

mutants: device ## take checks out one by one, and see that a test fails: minutes; RUN=REGEXP, SAMPLE=N
	$(GO) run ./internal/tools/mutants -run '$(RUN)' -sample $(or $(SAMPLE),0)
.PHONY: mutants
