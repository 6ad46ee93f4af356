package main

import (
	"testing"

	"github.com/sealboot/sealboot/cmds/internal/scripttest"
)

func TestMain(m *testing.M) { scripttest.Main(m, "attest", main) }

func TestScripts(t *testing.T) { scripttest.Run(t) }
