package tuf

import "strings"

// shape says which names mean something in an object of a metadata file.
//
// encoding/json takes "Version" for "version", and of two the later. Every other
// client takes it for a member of somebody else, so the same signed bytes would
// mean two things. Members of others are kept; such a one is refused.
type shape struct {
	members map[string]*shape // by name; nil for what is not looked into
	every   *shape            // of each element, and each member under a free name
}

// of returns the shape of a member; the name of an element is empty.
func (s *shape) of(name string) *shape {
	if s == nil {
		return nil
	}
	if in, ok := s.members[name]; ok {
		return in
	}
	return s.every
}

// mistaken returns the name that the decoder would take this one for.
func (s *shape) mistaken(name string) string {
	if s == nil {
		return ""
	}
	if _, ok := s.members[name]; ok {
		return ""
	}
	for known := range s.members {
		if strings.EqualFold(known, name) {
			return known
		}
	}
	return ""
}

func object(names ...string) *shape {
	s := &shape{members: map[string]*shape{}}
	for _, name := range names {
		s.members[name] = nil
	}
	return s
}

// with gives a member a shape of its own.
func (s *shape) with(name string, in *shape) *shape {
	s.members[name] = in
	return s
}

func each(in *shape) *shape { return &shape{every: in} }

// metadataShape is that of all roles together, as section 4 of the specification
// has them.
func metadataShape() *shape {
	return object().
		with("signatures", each(object("keyid", "sig"))).
		with("signed", object("_type", "spec_version", "version", "expires", "consistent_snapshot").
			with("keys", each(keyShape())).
			with("roles", each(object("keyids", "threshold"))).
			with("meta", each(object("version", "length", "hashes"))).
			with("targets", each(object("length", "hashes", "custom"))).
			with("delegations", object().
				with("keys", each(keyShape())).
				with("roles", each(object("name", "keyids", "threshold", "terminating", "paths", "path_hash_prefixes"))).
				with("succinct_roles", object("keyids", "threshold", "bit_length", "name_prefix"))))
}

func keyShape() *shape {
	return object("keytype", "scheme").with("keyval", object("public"))
}
