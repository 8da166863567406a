"""For people who add to edgenas: contracts that a plug-in must keep, and stand-ins for hardware."""
