# Versions of the tools are pinned here, and nowhere else.
GOLANGCI_LINT_VERSION := v2.15.0
GOBIN := $(CURDIR)/bin

.DEFAULT_GOAL := help
.PHONY: help run test race lint fuzz bench tidy ci

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Start the example API and its service
	go run ./example-app

test: ## Run all tests
	go test ./...

race: ## Run all tests with the race detector
	go test -race ./...

lint: bin/golangci-lint-$(GOLANGCI_LINT_VERSION) ## Run the linters
	$< run ./...

bin/golangci-lint-$(GOLANGCI_LINT_VERSION):
	GOBIN=$(GOBIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(GOBIN)/golangci-lint $@

fuzz: ## Run each fuzz test for FUZZTIME (default 10s)
	@./.ci/fuzz.sh $(or $(FUZZTIME),10s)

bench: ## Run the benchmarks beside their peers (minutes)
	cd bench && go run . all

tidy: ## Check that go.mod is tidy
	go mod tidy -diff
	cd bench && go mod tidy -diff

ci: ## Run what CI runs
	.ci/run
