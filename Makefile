# Targets for a fresh Debian 12 machine with Go and root; "make help" lists them.

# Where "make run" and "make build" leave what they build.
LAB    ?= build/run
LOADER ?= $(LAB)/loader
# What "make run" changes on purpose: uki, kernel, initrd, cmdline, log, m4 or replay.
TAMPER ?=
# Where "make run" boots from: oci, tuf, media or bundle, or several, as in tuf,oci.
SOURCE ?= oci
# Seconds of fuzzing: for each target at most, and for all of them together. An hour of it is "make soak".
FUZZTIME   ?= 10
FUZZBUDGET ?= 150

# Parts of the virtual machines' tests, which run at the same time as the rest of them.
VM_PARTS = -split 'qemu/lab=^Test(TUF|HostileOS|TPM)$$' -split 'qemu/lab=^Test(Tamper|Crash|ImageKinds|Payload)$$'

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

KERNEL_PACKAGES = linux-source-6.1 build-essential bc flex bison libelf-dev libssl-dev xz-utils systemd-boot-efi
VM_PACKAGES     = qemu-system-x86 ovmf swtpm swtpm-tools
OS_PACKAGES     = mmdebstrap buildah skopeo docker-registry curl ca-certificates
TEST_PACKAGES   = tpm2-tools dosfstools mtools fdisk e2fsprogs cryptsetup-bin postgresql binutils binutils-aarch64-linux-gnu \
                  cpio zstd dnsmasq-base iproute2 qemu-utils sbsigntool systemd strace
PACKAGES        = $(KERNEL_PACKAGES) $(VM_PACKAGES) $(OS_PACKAGES) $(TEST_PACKAGES)

.DEFAULT_GOAL := help
.PHONY: help deps build run lint check test soak size bench bench-fetch bench-vm bench-tuf bench-attest tuf-client clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# npm comes with Node.js from elsewhere, which Debian's packages would conflict with.
deps: ## Install the Debian packages that are missing (as root)
	@missing=$$(for p in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}\n' $$p 2>/dev/null | grep -q '^install ok installed$$' || echo $$p; done); \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	[ -n "$$missing" ] || exit 0; \
	echo "installing:" $$missing; \
	[ "$$(id -u)" = 0 ] || { echo "this needs root: run \"make deps\" as root once"; exit 1; }; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing

# The first time this compiles for a minute or more, and shows every 50th package.
build: deps ## Build the operator's tool and the server into build/bin
	@echo "building sealboot, attestd and attest"
	@{ CGO_ENABLED=0 go build -v -trimpath -o build/bin/ ./cmds/sealboot ./cmds/attestd ./cmds/attest 2>&1 || echo "FAILED to build"; } | \
	awk '/^go: downloading/ { next } / / { print; bad = bad || /^FAILED/; fflush(); next } \
	  ++n % 50 == 0 { print "  " n " packages compiled, " $$0; fflush() } END { exit bad }'

run: build ## Boot a measured OS and unlock its site (SOURCE=tuf; TAMPER=... must fail)
	@build/bin/sealboot lab run --dir $(LAB) --from $(SOURCE) $(if $(TAMPER),--tamper $(TAMPER))

lint: ## Format, sizes, vet, staticcheck and known vulnerabilities
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt -w" $$unformatted; exit 1; fi
	@big=$$(git ls-files | xargs -d '\n' -r stat -c '%s %n' | awk '$$1 > 65536'); if [ -n "$$big" ]; then echo "too big for sources:" $$big; exit 1; fi
	go vet ./...
	go vet -tags vm ./qemu/...
	go run $(STATICCHECK) ./...
	go run $(STATICCHECK) -tags vm ./qemu/...
	go run ./cmds/internal/vulncheck

check: lint ## The fast subset: lint and unit tests
	go test ./...

# An independent implementation of TUF, which each side's tests follow.
boot/publish/tufrepo/testdata/tufjs/node_modules: boot/publish/tufrepo/testdata/tufjs/package-lock.json
	cd $(@D) && npm ci --silent --no-audit --no-fund
	@touch $@

test: deps lint boot/publish/tufrepo/testdata/tufjs/node_modules ## Everything that can be tested: races, fuzzing, virtual machines
	SEALBOOT_TEST_ALL=1 go run ./cmds/internal/testrun -race -timeout 20m ./...
	.ci/fuzz $(FUZZTIME) $(FUZZBUDGET)
	SEALBOOT_TEST_ALL=1 go run ./cmds/internal/testrun $(VM_PARTS) -tags vm -timeout 60m -count 1 ./qemu/...

soak: deps ## Fuzzing for an hour: what is too long for "make test"
	.ci/fuzz 120 3600

size: build ## Show the sizes of the loader that "make run" booted, and fail over the budget
	@build/bin/sealboot build size $(LOADER)

bench: bench-fetch bench-vm bench-tuf bench-attest ## All benchmarks

bench-fetch: deps build/bench-root.tar ## Downloads: the fetcher beside curl and skopeo, unpacking beside tar
	go run ./boot/boottest/benchfetch
	go run ./boot/boottest/benchunpack build/bench-root.tar

# An ordinary root of about 360 MB.
build/bench-root.tar:
	@mkdir -p build
	mmdebstrap --quiet --variant=minbase --include=linux-image-cloud-amd64,systemd-sysv,cryptsetup,python3 bookworm $@.tmp.tar
	mv $@.tmp.tar $@

bench-vm: deps ## A virtual machine: memory and time that booting a payload of 110 MB takes
	@SEALBOOT_TEST_ALL=1 go test -tags vm -timeout 20m -count 1 -v -run '^TestPayload$$' ./qemu/lab | \
	awk '/^vm_/ { print; next } { rest = rest $$0 "\n" } /^(--- FAIL|FAIL|panic)/ { bad = 1 } END { if (bad) printf "%s", rest; exit bad }'

tuf-client: ## Build the client for the TUF project's conformance suite into build/tuf-client
	CGO_ENABLED=0 go build -trimpath -o build/tuf-client ./cmds/tuf-client

bench-tuf: tuf-client ## TUF: requests, bytes and memory of a device
	go run ./boot/boottest/benchtuf -client build/tuf-client

bench-attest: ## Attestation: a decision beside its bare cryptography, and decisions a second
	@go test -run '^$$' -bench 'Decision|Server' -benchtime 2s ./attest/verify ./attest/server | \
	awk '/^Benchmark/ { for (i = 3; i < NF; i += 2) if ($$(i + 1) !~ /\/op$$/) print $$(i + 1), $$i } /FAIL/ { print; bad = 1 } END { exit bad }'

clean: ## Remove what was built here (not the caches in the user's cache directory)
	rm -rf build
