package wire

// Values of TestVectors. They never change: a change breaks every device in the field.
const (
	vectorJoin = "2962570f8366720f731f00ba99a6934c8426a46e616615cdea82a2277d301f51"
	vectorAck  = "104882798d05a908ece0edd0df5e33f8d95fefafa9c8ca48de0f6de22ec1e854"
	vectorSign = "3ed75638c04f471b48c48adaaed090f184160a6295054adb762dc367742c55a8"
)
