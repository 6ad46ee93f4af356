package tuf

import "time"

// LifetimeField is a member of "signed" that sealboot's own repositories write:
// for how many hours the file was valid when it was signed. With the expiry it
// says when that was, which is a lower bound of the time for a device without
// a clock.
const LifetimeField = "x-sealboot-lifetime-hours"

// onCIField is the same of tuf-on-ci, in days.
const onCIField = "x-tuf-on-ci-expiry-period"

// maxLifetime is the longest that is believed: ten years.
const maxLifetime = 10 * 365 * 24 * time.Hour

// SignedTime returns the latest time at which a top-level role of the verified
// metadata is known to have been signed, or the zero time. It can be later than
// [Config].Now, which is how a clock that is behind is found out.
func (c *Client) SignedTime() time.Time {
	if c.trusted == nil {
		return time.Time{}
	}
	t := c.trusted
	var latest time.Time
	for _, at := range []time.Time{
		signedTime(t.root.Signed.Expires, t.root.Signed.UnrecognizedFields),
		signedTime(t.timestamp.Signed.Expires, t.timestamp.Signed.UnrecognizedFields),
		signedTime(t.snapshot.Signed.Expires, t.snapshot.Signed.UnrecognizedFields),
		signedTime(t.roles[RoleTargets].Signed.Expires, t.roles[RoleTargets].Signed.UnrecognizedFields),
	} {
		if at.After(latest) {
			latest = at
		}
	}
	return latest
}

func signedTime(expires time.Time, fields map[string]any) time.Time {
	for name, unit := range map[string]time.Duration{LifetimeField: time.Hour, onCIField: 24 * time.Hour} {
		n, ok := fields[name].(float64)
		if life := time.Duration(n) * unit; ok && n > 0 && n <= float64(maxLifetime/unit) {
			return expires.Add(-life)
		}
	}
	return time.Time{}
}
