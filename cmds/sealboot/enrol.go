package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/agent"
	"github.com/sealboot/sealboot/attest/server/enrol"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
	"github.com/sealboot/sealboot/measure/tpm"
)

// enrolFlags say where the facts about a device are.
type enrolFlags struct {
	dir, label, evidence, tpm, batch string
	hashes, certs, publics           []string
	byHash, noFloor                  bool
	imagePCR                         int
}

func newEnrolCmd() *cobra.Command {
	var o enrolFlags
	cmd := &cobra.Command{
		Use:   "enrol --dir DIR (--evidence FILE | --tpm ADDR | --cert FILE | --public FILE | --hash HEX | --batch FILE)",
		Short: "Register a device by its TPM's endorsement key",
		Long: `Register a device by its TPM's endorsement key.

A certificate is checked against the site's TPM makers. Without a trusted one a device is enrolled only with
--hash-suffices, or at a site that was made with --ek-hash-only: then you vouch for it.

Its rollback floor is written into the TPM with --tpm, on a machine that has booted nothing since its reset;
without it the device writes the floor in its first boot, on attestd's signed order.

Works on the site's directory, also while attestd runs.`,
		Example: `  attest evidence > box.json                                     on the device
  sealboot enrol --dir DIR --label till-3 --evidence box.json
  sealboot enrol --dir DIR --tpm unix:/run/swtpm/sock
  sealboot enrol --dir DIR --batch delivery.txt                  lines of HASH LABEL`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), o.dir, func(ctx context.Context, s *site.Site, db *store.Store) error {
				return o.run(ctx, cmd.OutOrStdout(), s, db)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "the site's directory")
	f.StringVar(&o.label, "label", "", "your name for the device")
	f.StringVar(&o.evidence, "evidence", "", "output of attest evidence on the device")
	f.StringVar(&o.tpm, "tpm", "", "a TPM to read: /dev/tpmrm0, unix:PATH, tcp:HOST:PORT")
	f.StringVar(&o.batch, "batch", "", "file with one device a line: HASH LABEL")
	f.StringArrayVar(&o.certs, "cert", nil, "endorsement key certificate, DER or PEM")
	f.StringArrayVar(&o.publics, "public", nil, "endorsement key's public area, TPM2B_PUBLIC or TPMT_PUBLIC")
	f.StringArrayVar(&o.hashes, "hash", nil, "SHA-256 of the endorsement key's TPMT_PUBLIC, in hex")
	f.BoolVar(&o.byHash, "hash-suffices", false, "enrol without a trusted certificate")
	f.BoolVar(&o.noFloor, "no-floor", false, "give it no rollback floor: only loaders whose site config says so boot it")
	f.IntVar(&o.imagePCR, "image-pcr", event.PCRImage, "pcrs.image of the site config: the floor can be written while it is zero")
	require(cmd, "dir")
	cmd.MarkFlagsMutuallyExclusive("evidence", "tpm", "batch")
	cmd.MarkFlagsOneRequired("evidence", "tpm", "batch", "cert", "public", "hash")
	return cmd
}

func (o *enrolFlags) run(ctx context.Context, out io.Writer, s *site.Site, db *store.Store) error {
	src := enrol.Source{Hashes: o.hashes, Label: o.label, Roots: s.EKRoots, HashSuffices: o.byHash || s.Endorsement == site.EndorsedByHash}
	if !o.noFloor && o.tpm == "" {
		src.Floor = new(int64)
	}
	if o.batch != "" {
		return enrolBatch(ctx, out, db, o.batch, src)
	}
	floor, err := o.read(ctx, &src)
	if err != nil {
		return err
	}
	if err := enrolOne(ctx, out, db, src); err != nil || floor == "" {
		return err
	}
	_, err = fmt.Fprintf(out, "rollback floor %s\n", floor)
	return err
}

// read collects the facts from files or from a TPM. It says what became of the
// TPM's rollback floor.
func (o *enrolFlags) read(ctx context.Context, src *enrol.Source) (floorIs string, err error) {
	for _, list := range []struct {
		files []string
		to    *[][]byte
	}{{o.certs, &src.Certificates}, {o.publics, &src.Publics}} {
		for _, name := range list.files {
			b, err := os.ReadFile(name)
			if err != nil {
				return "", err
			}
			*list.to = append(*list.to, b)
		}
	}
	var e *agent.Evidence
	switch {
	case o.evidence != "":
		b, err := os.ReadFile(o.evidence)
		if err != nil {
			return "", err
		}
		e = new(agent.Evidence)
		if err := json.Unmarshal(b, e); err != nil {
			return "", fmt.Errorf("%s is not the output of attest evidence: %w", o.evidence, err)
		}
	case o.tpm != "":
		t, err := tpm.Open(ctx, o.tpm)
		if err != nil {
			return "", err
		}
		defer t.Close()
		if e, err = agent.Gather(ctx, t, agent.Dir); err != nil {
			return "", err
		}
		if !o.noFloor {
			if floorIs, err = provisionFloor(ctx, floor.Store{TPM: t, PCR: o.imagePCR}); err != nil {
				return "", err
			}
		}
	default:
		return "", nil
	}
	if len(e.EKs) == 0 {
		return "", fmt.Errorf("%s is not the output of attest evidence: it names no endorsement key", cmp.Or(o.evidence, o.tpm))
	}
	if o.tpm != "" {
		src.Hashes = append(src.Hashes, e.EKs...)
	} else {
		// Of a file, which a machine has written, an operator can check the key that it will use.
		src.Hashes, src.Named = append(src.Hashes, e.EKs[0]), e.EKs[1:]
	}
	for _, c := range e.Certificates {
		src.Certificates = append(src.Certificates, c)
	}
	return floorIs, nil
}

// provisionFloor gives a TPM its rollback floor, and says what became of it. One
// that is there and whole is kept.
func provisionFloor(ctx context.Context, s floor.Store) (string, error) {
	r := floor.Record{Time: time.Now()}
	_, err := s.Read(ctx)
	did := "kept as it is"
	switch {
	case errors.Is(err, floor.ErrMissing):
		did, err = "written", s.Provision(ctx, r)
	case floor.Destroyed(err):
		did, err = "written anew", s.Repair(ctx, r)
	}
	if errors.Is(err, floor.ErrClosed) {
		return "", fmt.Errorf("%w\nReset the machine and enrol it before it boots an image, or let the device do it: enrol it without --tpm", err)
	}
	return did, err
}

func enrolOne(ctx context.Context, out io.Writer, db *store.Store, src enrol.Source) error {
	d, err := src.Device(time.Now())
	if errors.Is(err, enrol.ErrEndorsement) {
		return fmt.Errorf("%w\nAdd the TPM maker's CA to ek-roots.pem, or vouch for the device with --hash-suffices", err)
	}
	if err != nil {
		return err
	}
	err = db.Enrol(ctx, d, store.Event{Kind: "enrol", Actor: actor(), Detail: map[string]string{"tier": d.Tier, "label": d.Label}})
	if errors.Is(err, store.ErrExists) {
		return fmt.Errorf("%w; \"sealboot device show\" tells what is known of it", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s enrolled by %s %s\n", d.ID, d.Tier, d.Label)
	return nil
}

// enrolBatch enrols what a delivery note lists. A line that fails does not stop the others.
func enrolBatch(ctx context.Context, out io.Writer, db *store.Store, file string, src enrol.Source) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var failed error
	devices := 0
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		hash, label, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if hash == "" || strings.HasPrefix(hash, "#") {
			continue
		}
		devices++
		src.Hashes, src.Label = []string{hash}, strings.TrimSpace(label)
		if err := enrolOne(ctx, out, db, src); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s line %d: %w", file, n, err))
		}
	}
	if err := lines.Err(); err != nil {
		failed = errors.Join(failed, fmt.Errorf("read %s: %w", file, err))
	} else if devices == 0 {
		failed = fmt.Errorf("%s names no device: want lines of HASH LABEL", file)
	}
	return failed
}

func newDeviceTokenCmd(dir *string) *cobra.Command {
	var uses int64
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a join token: a device that shows it may wait for your approval",
		Long: `Make a join token and print it. A loader whose site config has it ("sealboot site config --join-token") shows
attestd that it knows it; its machine then waits for "sealboot device allow". The token vouches for nothing: at a site
that trusts TPM makers, a machine also needs a TPM with a certificate of one, and takes no use of the token without.`,
		Example: `  sealboot device token --dir DIR spring --uses 50 > join.token`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" || uses < 1 || life <= 0 {
				return errors.New("no one could use that token: want a name, --uses of at least 1, and a --life such as 24h")
			}
			raw := make([]byte, 24)
			if _, err := rand.Read(raw); err != nil {
				return err
			}
			t := store.Token{Name: args[0], Secret: []byte(base64.RawURLEncoding.EncodeToString(raw)), Expires: time.Now().Add(life), Uses: uses}
			err := withStore(cmd.Context(), *dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
				return db.AddToken(ctx, t, store.Event{Kind: "token", Actor: actor(), Detail: map[string]string{"name": t.Name, "uses": fmt.Sprint(uses)}})
			})
			if errors.Is(err, store.ErrExists) {
				return fmt.Errorf("%w; give the new one another name", err)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n", t.Secret)
			return nil
		},
	}
	cmd.Flags().Int64Var(&uses, "uses", 1, "how many devices may use it")
	cmd.Flags().DurationVar(&life, "life", 24*time.Hour, "how long it is valid")
	return cmd
}
