"""What was computed: kept, restored, rewound and written to disk."""
