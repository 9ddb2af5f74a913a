/// What this program starts itself with, as the server of a disk.
public enum DiskServerArguments {
    public static let command = "internal-nbd-server"
}
