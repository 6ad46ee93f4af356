package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/server/enrol"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
)

// withStore opens a site's store for one operation. It may be used while attestd runs.
func withStore(ctx context.Context, dir string, f func(context.Context, *site.Site, *store.Store) error) (err error) {
	if dir == "" {
		return errors.New("say which site with --dir DIR")
	}
	s, err := site.Load(dir, time.Now)
	if err != nil {
		return err
	}
	db, err := s.OpenStore(ctx, time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(ctx, s, db)
}

// actor names the operator in the audit log.
func actor() string {
	u, err := user.Current()
	if err != nil {
		return "operator"
	}
	return "operator " + u.Username
}

func newDeviceCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "device",
		Short: "List devices, allow, quarantine or remove them, repair their floor",
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "the site's directory")
	if err := cmd.MarkPersistentFlagRequired("dir"); err != nil {
		panic(err)
	}
	cmd.AddCommand(newDeviceListCmd(&dir), newDeviceShowCmd(&dir), newDeviceAllowCmd(&dir),
		newDeviceQuarantineCmd(&dir), newDeviceRemoveCmd(&dir), newDevicePolicyCmd(&dir), newDeviceRepairCmd(&dir), newDeviceTokenCmd(&dir))
	return cmd
}

const listPage = 500

var deviceStates = []string{string(store.Enrolled), string(store.Pending), string(store.Quarantined)}

func newDeviceListCmd(dir *string) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use: "list", Short: "List the devices with their last attempt", Args: cobra.NoArgs,
		Example: `  sealboot device list --dir DIR --state pending`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if state != "" && !slices.Contains(deviceStates, state) {
				return fmt.Errorf("--state %s: want one of %s", state, strings.Join(deviceStates, ", "))
			}
			return withStore(cmd.Context(), *dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "DEVICE\tLABEL\tSTATE\tTIER\tPROVEN\tIMAGE\tLOADER\tLAST ATTEMPT\tREASON")
				for after := ""; ; {
					page, err := db.Devices(ctx, after, listPage)
					if err != nil {
						return err
					}
					for _, d := range page {
						reason := d.Attempt.Reason
						if h := d.HiddenDenial(); h != nil {
							reason = fmt.Sprintf("%s; denied %s: %s", reason, stamp(h.Time), h.Reason)
						}
						if state == "" || state == string(d.State) {
							fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID[:16], d.Label, d.State, d.Tier,
								stamp(d.Confirmed.Time), d.Confirmed.Image, d.Confirmed.Loader, strings.TrimSpace(stamp(d.Attempt.Time)+" "+d.Attempt.Verdict), reason)
						}
					}
					if len(page) < listPage {
						return w.Flush()
					}
					after = page[len(page)-1].ID
				}
			})
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only devices in this state: "+strings.Join(deviceStates, ", "))
	oneOf(cmd, "state", deviceStates...)
	return cmd
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateTime)
}

// find resolves a device by any of its hashes, a label, or the beginning of its ID if it is the only one.
func find(ctx context.Context, db *store.Store, name string) (store.Device, error) {
	d, err := db.Device(ctx, name)
	if !errors.Is(err, store.ErrNotFound) {
		return d, err
	}
	var found []string
	for after := ""; ; {
		page, err := db.Devices(ctx, after, listPage)
		if err != nil {
			return d, err
		}
		for _, c := range page {
			if c.Label == name || (len(name) >= 8 && strings.HasPrefix(c.ID, name)) {
				found = append(found, c.ID)
			}
		}
		if len(page) < listPage {
			break
		}
		after = page[len(page)-1].ID
	}
	switch len(found) {
	case 0:
		return d, fmt.Errorf("no device %q: sealboot device list shows them", name)
	case 1:
		return db.Device(ctx, found[0])
	}
	return d, fmt.Errorf("%d devices match %q: give the ID of one, longer if need be: %s", len(found), name, strings.Join(found, ", "))
}

func newDeviceShowCmd(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "show DEVICE", Short: "Print everything known of a device, as JSON", Args: cobra.ExactArgs(1),
		Long: `Print everything known of a device, as JSON. Here and elsewhere DEVICE is its label, its ID, one of its other
endorsement key hashes, or the beginning of its ID, at least 8 characters.`,
		Example: `  sealboot device show --dir DIR till-3`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(cmd.Context(), *dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
				d, err := find(ctx, db, args[0])
				if err != nil {
					return err
				}
				versions, err := db.Versions(ctx, d.ID)
				if err != nil {
					return err
				}
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(struct {
					store.Device
					Versions map[string]int64 `json:"versions"`
				}{d, versions})
			})
		},
	}
}

// changeDevice runs one audited change of one device.
func changeDevice(cmd *cobra.Command, dir, name string, f func(context.Context, *store.Store, store.Device) error) error {
	return withStore(cmd.Context(), dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
		d, err := find(ctx, db, name)
		if err != nil {
			return err
		}
		if err := f(ctx, db, d); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: done\n", strings.TrimSpace(d.ID[:16]+" "+d.Label))
		return nil
	})
}

func newDeviceAllowCmd(dir *string) *cobra.Command {
	var format bool
	var label string
	cmd := &cobra.Command{
		Use:   "allow DEVICE",
		Short: "Let a waiting or quarantined device attest again",
		Long: `Let a waiting or quarantined device attest.

With --format also let it format blank volumes, after a disk was replaced, until it has acknowledged a boot that was told so.`,
		Example: `  sealboot device allow --dir DIR 3c5403209f87bed7 --label till-3
  sealboot device allow --dir DIR till-3 --format`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := enrol.CheckLabel(label); err != nil {
				return err
			}
			return changeDevice(cmd, *dir, args[0], func(ctx context.Context, db *store.Store, d store.Device) error {
				if label != "" {
					if err := db.SetLabel(ctx, d.ID, label, store.Event{Kind: "label", Actor: actor(), Detail: map[string]string{"label": label}}); err != nil {
						return err
					}
				}
				if d.State != store.Enrolled {
					if err := db.SetState(ctx, d.ID, store.Enrolled, store.Event{Kind: "state", Actor: actor(), Reason: "allowed"}); err != nil {
						return err
					}
				}
				if !format {
					return nil
				}
				return db.AllowFormat(ctx, d.ID, store.Event{Kind: "format", Actor: actor()})
			})
		},
	}
	cmd.Flags().StringVar(&label, "label", "", "your name for the device; empty leaves it as it is")
	cmd.Flags().BoolVar(&format, "format", false, "let it format blank volumes until it has acknowledged a boot that was told so")
	return cmd
}

func newDeviceQuarantineCmd(dir *string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "quarantine DEVICE", Short: "Release nothing more to a device, and refuse its agent", Args: cobra.ExactArgs(1),
		Example: `  sealboot device quarantine --dir DIR till-3 --reason stolen`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeDevice(cmd, *dir, args[0], func(ctx context.Context, db *store.Store, d store.Device) error {
				return db.SetState(ctx, d.ID, store.Quarantined, store.Event{Kind: "state", Actor: actor(), Reason: "quarantined: " + reason})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "for the audit log")
	return cmd
}

func newDeviceRemoveCmd(dir *string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "remove DEVICE...", Short: "Forget devices that wait or are quarantined", Args: cobra.MinimumNArgs(1),
		Long: `Forget devices that wait or are quarantined, with all that they have proven: versions, firmware, keys, status. The audit
log keeps its records.

A removed device is a stranger: it gets nothing, and attestd refuses its agent. With a valid join token it asks again and waits; its
hash or certificate can be enrolled again, and then it begins anew, down to the leave to format blank volumes. What was stolen
is quarantined, not removed. A use that it took of a join token is not given back.`,
		Example: `  sealboot device remove --dir DIR 3c5403209f87bed7 --reason "not ours"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				err := changeDevice(cmd, *dir, name, func(ctx context.Context, db *store.Store, d store.Device) error {
					return db.Remove(ctx, d.ID, store.Event{Kind: "remove", Actor: actor(), Reason: reason,
						Detail: map[string]string{"label": d.Label, "state": string(d.State), "tier": d.Tier}})
				})
				if errors.Is(err, store.ErrEnrolled) {
					return fmt.Errorf("%w: quarantine it first (sealboot device quarantine)", err)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "for the audit log")
	return cmd
}

func newDeviceRepairCmd(dir *string) *cobra.Command {
	var floor int64
	cmd := &cobra.Command{
		Use:   "repair-floor DEVICE --version N",
		Short: "Order a device whose rollback floor is destroyed or too high to write it anew",
		Long: `Order a device whose rollback floor is destroyed or too high to write it anew.

The order is for the next boot that begins, and stands until a boot that heard of it was acknowledged.`,
		Example: `  sealboot device repair-floor --dir DIR till-3 --version 14`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeDevice(cmd, *dir, args[0], func(ctx context.Context, db *store.Store, d store.Device) error {
				return db.RepairFloor(ctx, d.ID, floor, store.Event{Kind: "floor", Actor: actor(), Detail: map[string]string{"version": fmt.Sprint(floor)}})
			})
		},
	}
	cmd.Flags().Int64Var(&floor, "version", 0, "lowest image version that it may boot")
	require(cmd, "version")
	return cmd
}

func newDevicePolicyCmd(dir *string) *cobra.Command {
	var p store.DevicePolicy
	cmd := &cobra.Command{
		Use:     "policy DEVICE [--image NAME]... [--profile NAME]... [--allow-unmeasured]",
		Short:   "Narrow or widen what one device may boot; without flags, the site's policy alone counts",
		Example: `  sealboot device policy --dir DIR till-3 --image edge-os-1.4`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeDevice(cmd, *dir, args[0], func(ctx context.Context, db *store.Store, d store.Device) error {
				text, err := json.Marshal(p)
				if err != nil {
					return err
				}
				return db.SetPolicy(ctx, d.ID, p, store.Event{Kind: "device-policy", Actor: actor(), Detail: map[string]string{"policy": string(text)}})
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&p.Images, "image", nil, "it may boot this image and no other (repeat for more)")
	f.StringArrayVar(&p.Profiles, "profile", nil, "its firmware must match this profile (repeat for more)")
	f.BoolVar(&p.AllowUnmeasured, "allow-unmeasured", false, "accept that its firmware measures nothing: it then proves no more than its TPM")
	return cmd
}
