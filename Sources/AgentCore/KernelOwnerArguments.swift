/// What this program starts itself with, as the owner of a disk that the driver serves.
public enum KernelOwnerArguments {
    public static let command = "internal-kernel-owner"
}
