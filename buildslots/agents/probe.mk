# What `buildslots doctor --agent NAME` has an agent run: whether its builds take slots, only it can tell.
.SILENT:
probe:
	if [ -n "$$BUILD_SLOT" ]; then echo "buildslots probe: slot $$BUILD_SLOT: it works"; \
	elif [ -n "$$BUILD_SLOTS_DISABLE" ]; then echo "buildslots probe: no slot, for BUILD_SLOTS_DISABLE is set"; \
	else echo "buildslots probe: no slot: this command came without slot-run"; fi
