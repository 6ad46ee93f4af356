# Targets for a fresh Debian 12 machine with Go and root; "make help" lists them.

# Where "make run" and "make build" leave what they build.
LAB    ?= build/run
LOADER ?= $(LAB)/loader
# What "make run" changes on purpose: uki, kernel, initrd, cmdline, log, m4 or replay.
TAMPER ?=
# Where "make run" boots from: oci, tuf, media or bundle, or several, as in tuf,oci.
SOURCE ?= oci
# Seconds of fuzzing: for each target at most, and for all of them together.
FUZZTIME   ?= 60
FUZZBUDGET ?= 600

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

KERNEL_PACKAGES = linux-source-6.1 build-essential bc flex bison libelf-dev libssl-dev xz-utils systemd-boot-efi
VM_PACKAGES     = qemu-system-x86 ovmf swtpm swtpm-tools
OS_PACKAGES     = mmdebstrap buildah skopeo docker-registry curl ca-certificates
TEST_PACKAGES   = tpm2-tools dosfstools mtools fdisk e2fsprogs cryptsetup-bin postgresql binutils
PACKAGES        = $(KERNEL_PACKAGES) $(VM_PACKAGES) $(OS_PACKAGES) $(TEST_PACKAGES)

.DEFAULT_GOAL := help
.PHONY: help deps build run check test size bench bench-fetch bench-tuf tuf-client clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install the Debian packages that are missing
	@missing=$$(for p in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}\n' $$p 2>/dev/null | grep -q '^install ok installed$$' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing:" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing; \
	fi

build: deps ## Build the operator's tool and the server into build/bin
	CGO_ENABLED=0 go build -trimpath -o build/bin/ ./cmds/sealboot ./cmds/attestd ./cmds/attest

run: deps ## Boot a measured OS and unlock its site (SOURCE=tuf; TAMPER=... must fail)
	go run ./cmds/sealboot lab run --dir $(LAB) --from $(SOURCE) $(if $(TAMPER),--tamper $(TAMPER))

check: ## Format, vet, staticcheck and unit tests: the fast subset
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt -w" $$unformatted; exit 1; fi
	go vet ./...
	go vet -tags vm ./qemu/...
	go run $(STATICCHECK) ./...
	go test ./...

test: deps check ## Everything that can be tested: races, fuzzing, virtual machines
	SEALBOOT_TEST_ALL=1 go test -race ./...
	.ci/fuzz $(FUZZTIME) $(FUZZBUDGET)
	SEALBOOT_TEST_ALL=1 go test -tags vm -timeout 40m -count 1 ./qemu/...

size: ## Show the sizes of the loader that "make run" booted, and fail over the budget
	@go run ./cmds/sealboot build size $(LOADER)

bench: bench-fetch bench-tuf ## All benchmarks

bench-fetch: ## Downloads: the fetcher beside curl and skopeo
	go run ./boot/fetch/benchfetch

tuf-client: ## Build the client for the TUF project's conformance suite into build/tuf-client
	CGO_ENABLED=0 go build -trimpath -o build/tuf-client ./cmds/tuf-client

bench-tuf: tuf-client ## TUF: requests, bytes and memory of a device
	go run ./boot/tuf/bench -client build/tuf-client

clean: ## Remove what was built here (not the caches in the user's cache directory)
	rm -rf build
