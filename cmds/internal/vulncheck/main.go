// Command vulncheck runs govulncheck over this module for "make lint".
//
// It takes the newest database that answers: Go's own server, or the module
// golang.org/x/vulndb, which holds the same reports and comes through the module
// proxy. Where neither answers it says that nothing was checked and succeeds,
// since a checkout must build and pass without a network.
//
// What is known to be wrong with a module of go.mod, in code that is called, is an
// error. What is wrong with Go's standard library is shown and is none: another
// commit of this repository does not mend it, another Go does.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c := &checker{
		databases: []database{server(http.DefaultClient, "https://vuln.go.dev"), module},
		scanner:   install,
		out:       os.Stdout,
	}
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vulncheck:", err)
		if !errors.Is(err, errFound) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
